"""The oracle refuses what attacks may not ask, and answers in one shape and the right precision."""

import pytest
import torch
from harness import CoinFlip, Collector, Run, engine_of, images
from torch import nn

from rfdlight.attacks import RandomNoise
from rfdlight.core import query_counts as clock
from rfdlight.engine import Oracle, OracleConfig, criterion_named
from rfdlight.engine.failures import VictimError
from rfdlight.engine.probe import probe
from rfdlight.errors import DefenseError, UserError


def ask(oracle, points, purpose="attack"):
    return oracle.scores(points, torch.arange(len(points)), purpose)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.01, r"expected pixels in \[0, 1\], got values from 0 to 1\.01"),
        (-0.25, r"expected pixels in \[0, 1\], got values from -0\.25 to 0"),
        (255.0, r"expected pixels in \[0, 1\], got values from 0 to 255"),
        (float("nan"), r"expected pixels in \[0, 1\], got values from nan to nan"),
        (float("inf"), r"expected pixels in \[0, 1\], got values from 0 to inf"),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_pixels_out_of_range_are_refused_whatever_the_victim_makes_of_them(value, text, fails):
    class Victim(CoinFlip):
        def forward(self, x):
            if fails:
                raise ValueError("these pixels")
            return super().forward(x)

    points = torch.zeros(2, 3, 4, 4)
    points[1, 2, 3, 3] = value
    with pytest.raises(UserError, match=f"^{text}$"):
        ask(Oracle(Victim(), 4), points)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(value):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), value)

    with pytest.raises(UserError, match=r"^the victim answered NaN or infinity; attacks need finite scores$"):
        ask(Oracle(Broken(), 4), torch.zeros(2, 3, 4, 4))


def test_every_forward_has_the_full_shape_and_every_row_is_counted(network):
    seen = []
    hook = network.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    oracle = Oracle(network, 5)
    for rows in (5, 1, 3):
        assert ask(oracle, images(rows)).shape == (rows, 5)
    hook.remove()
    assert seen == [(5, 3, 16, 16)] * 3
    assert oracle.forwarded == 15
    oracle.close()
    network(images(2))
    assert oracle.forwarded == 15


def test_padding_does_not_change_an_answer(network):
    points = images(5)
    oracle = Oracle(network, 5)
    whole = ask(oracle, points)
    for rows in (1, 2, 4):
        assert torch.equal(ask(oracle, points[:rows]), whole[:rows])
    oracle.close()


class Sizes(nn.Module):
    """Notes the rows of each pass; with a number of `rows` it takes no other."""

    def __init__(self, rows=None):
        super().__init__()
        self.rows, self.seen = rows, []

    def forward(self, x):
        self.seen.append(len(x))
        if self.rows not in (None, len(x)):
            raise ValueError("wrong number of rows")
        return torch.stack([x.flatten(1).sum(1), torch.zeros(len(x))], 1)


@pytest.mark.parametrize(("batch_size", "sizes"), [(32, [4, 4, 8, 32]), (20, [3, 3, 6, 20]), (5, [1, 3, 5, 5])])
def test_shorter_passes_are_padded_to_the_next_eighth_and_counted(batch_size, sizes):
    victim = Sizes()
    oracle = Oracle(victim, batch_size)
    oracle.allow_shorter_passes(torch.zeros(1, 1, 2, 2))
    assert victim.seen == [sizes[0]]
    points = torch.rand(batch_size, 1, 2, 2)
    for count in (3, 5, batch_size):
        logits = ask(oracle, points[:count])
        torch.testing.assert_close(logits[:, 0], points[:count].flatten(1).sum(1))
    assert victim.seen == sizes
    assert oracle.forwarded == sum(sizes)
    assert oracle.spare == sum(sizes) - 1 - 3 - 5 - batch_size


def test_a_victim_of_one_number_of_rows_gets_full_passes():
    victim = Sizes(16)
    oracle = Oracle(victim, 16)
    oracle.allow_shorter_passes(torch.zeros(1, 1, 2, 2))
    ask(oracle, torch.zeros(3, 1, 2, 2))
    assert victim.seen == [2, 16]


def test_the_victim_is_put_into_eval_mode_and_asked_without_gradients():
    class Spy(nn.Module):
        def forward(self, x):
            assert not self.training
            assert not torch.is_grad_enabled()
            return torch.zeros(len(x), 2)

    assert ask(Oracle(Spy().train(), 2), images(1)).shape == (1, 2)


def test_schedules_see_the_clock_of_each_row():
    class Clocked(nn.Module):
        def forward(self, x):
            ticks = clock.current()
            return torch.stack([ticks, -ticks], 1).float()

    oracle = Oracle(Clocked(), 4)
    points = images(3)
    answer = oracle.scores(points, torch.tensor([7, 0, 99]), "attack")
    assert answer[:, 0].tolist() == [7, 0, 99]
    assert clock.current() is None


def test_reduced_precision_is_the_attacks_and_never_the_criteria(network):
    points = images(4)
    full, reduced = Oracle(network, 4), Oracle(network, 4, OracleConfig(precision="bfloat16"))
    exact = ask(full, points)
    assert torch.equal(ask(reduced, points, "criterion"), exact)
    rough = ask(reduced, points, "attack")
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    # bfloat16 keeps 8 bits; errors of single layers add up over the eight.
    assert torch.allclose(rough, exact, atol=0.1 * float(exact.abs().max()))
    full.close()
    reduced.close()


def test_with_reduced_precision_every_candidate_is_confirmed_in_float32(network, clean):
    run = Run(network, RandomNoise(eps=0.05), *clean, budget=30, precision="bfloat16")
    adversarial = [record for record in run.records if record.success_query is not None]
    assert adversarial
    for record in run.records:
        # One at the clean image, one more near the boundary; one at the final point, two where no query was confirmed.
        assert record.criterion - record.voted_candidates - (record.success_query is None) in (2, 3)
        assert (record.success_query is None) or (record.voted_candidates >= 1 and record.verdict == "adversarial")
    assert sum(run.total.values()) == run.oracle.forwarded


def test_the_victims_noise_follows_seed_rank_and_attempt():
    def noise(**options):
        return ask(Oracle(CoinFlip(), 4, OracleConfig(**options)), images(4))

    assert torch.equal(noise(seed=1), noise(seed=1))
    others = [noise(seed=2), noise(seed=1, rank=1), noise(seed=1, attempt=1)]
    assert all(not torch.equal(noise(seed=1), other) for other in others)


def test_a_stopped_engine_keeps_what_it_has():
    # Without noise in the victim's way, four images end at a time; the flag is looked at before every tick.
    criterion = criterion_named("never")
    x, y = images(8, (1, 2, 2)), torch.zeros(8, dtype=torch.int64)

    class Right(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    oracle, observer = Oracle(Right(), 4), Collector(passes=6)
    engine = engine_of(oracle, RandomNoise(eps=0.1), observer, criterion, budget=3, pool_size=4)
    engine.submit(x, y, [str(i) for i in range(8)])
    engine.run()
    # Clean, three queries and final draws of the first four images, and one more tick.
    assert [record.id for record in sorted(observer.records, key=lambda r: r.id)] == ["0", "1", "2", "3"]
    assert oracle.forwarded == 24 == sum(engine.ledger.total.values())


def test_the_generator_is_restored_when_the_victim_fails():
    class Failing(nn.Module):
        def forward(self, x):
            torch.rand(5)
            raise RuntimeError("no")

    points = torch.rand(2, 1, 2, 2)
    before = torch.get_rng_state()
    with pytest.raises(VictimError, match=r"^the victim raised RuntimeError: no$"):
        Oracle(Failing(), 2).scores(points, torch.zeros(2, dtype=torch.int64), "attack")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("purpose", ["attack", "criterion"])
def test_what_the_caller_has_cast_down_is_float32_here(purpose):
    torch.manual_seed(0)
    victim, points = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), torch.rand(4, 3, 4, 4)
    exact = ask(Oracle(victim, 4), points, purpose)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ask(Oracle(victim, 4), points, purpose), exact)
        assert not torch.equal(victim(points).float(), exact)


def test_a_defense_that_cannot_act_ends_the_run_at_its_first_pass_and_is_no_failure_of_an_image():
    class Refusing(nn.Module):
        passes = 0

        def forward(self, x):
            self.passes += 1
            raise DefenseError("the forward pass never calls the layer act")

    victim = Refusing()
    with pytest.raises(DefenseError, match="never calls"):
        probe(Oracle(victim, 4), images(3))
    assert victim.passes == 1

"""Images on which the victim fails leave the run, and change nothing for the others."""

import pytest
import torch
from harness import CoinFlip, Collector, Constant, Linear, Mapped, engine_of, images
from torch import nn

from rfdlight.attacks import PGD, RandomNoise, Square
from rfdlight.engine import Oracle, criterion_named
from rfdlight.engine.error_isolation import ErrorIsolation
from rfdlight.engine.ledger import Ledger
from rfdlight.engine.state import Phase
from rfdlight.errors import UserError

EPS = 0.05


class BackwardFails(torch.autograd.Function):
    """Passes its input on, and raises where it is asked for a gradient."""

    @staticmethod
    def forward(context, x):
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        raise RuntimeError("no way back")


class Faulty(nn.Module):
    """Another victim that fails in some way on some images, given with all that is in the ball around them, in a phase.

    The two lines of its message are one too many.
    """

    def __init__(self, victim, bad, ids, how, phase=None):
        super().__init__()
        self.victim = victim
        self.bad = dict(zip(ids, bad, strict=True))
        self.how = how
        self.phase = phase
        self.engine = None
        self.shapes = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        hit = torch.zeros(len(x), dtype=torch.bool)
        for image_id, clean in self.bad.items():
            if self.phase is None or self.phase_of(image_id) == self.phase:
                hit |= (x - clean).abs().flatten(1).amax(1) <= EPS + 1e-6
        if not hit.any():
            return self.victim(x)
        if self.how == "raise":
            raise ValueError("cannot look\nat this")
        if self.how == "backward":
            return self.victim(BackwardFails.apply(x))
        if self.how == "gradient":
            # A root at zero: the value is 0, the gradient is NaN.
            square = torch.where(hit, 0 * x.flatten(1).sum(1), 1.0)
            return self.victim(x) + (square.sqrt() - (~hit).float())[:, None]
        if self.how == "contagious":
            return self.victim(x) * torch.nan
        return torch.where(hit[:, None], float(self.how), self.victim(x))

    def phase_of(self, image_id):
        pool = self.engine._pool
        if image_id not in pool.ids:
            return None
        row = pool.ids.index(image_id)
        return "test" if pool.images.criterion.testing[row] else int(pool.images.points.phase[row])


class Failures(Collector):
    def __init__(self):
        super().__init__()
        self.failed = {}

    def on_failure(self, image_id, reason):
        self.failed[image_id] = reason


class BySum(nn.Module):
    def forward(self, x):
        return x.flatten(1).sum(1, keepdim=True).expand(-1, 2)


def names(numbers):
    return [f"test/{number:04d}" for number in numbers]


def attacked(victim, attack, x, y, numbers=None, *, batch_size=4, budget=12, **options):
    """Attack some of the images; return the records and the failures by id, and the engine."""
    numbers = list(range(len(x))) if numbers is None else numbers
    oracle = Oracle(victim, batch_size)
    observer = Failures()
    own = {"classes": 5, "pool_size": 6, "deterministic": False}
    criterion = criterion_named("sequential", 40)
    engine = engine_of(oracle, attack, observer, criterion, budget=budget, **{**own, **options})
    victim.engine = engine
    engine.submit(x[numbers], y[numbers], names(numbers))
    try:
        engine.run()
        engine.ledger.check(oracle.forwarded)
    finally:
        oracle.close()
    assert len(engine._pool) == 0
    return {record.id: record for record in observer.records}, observer.failed, engine


REASONS = {"raise": "ValueError: cannot look", "nan": "the victim answered NaN or infinity"}
REASONS |= dict.fromkeys(["inf", "-inf", "contagious"], REASONS["nan"])
SCORES = [
    ("inf", Phase.CLEAN),
    ("raise", Phase.ATTACK),
    ("-inf", Phase.CANDIDATE),
    ("nan", "test"),
    ("raise", Phase.INTERIM),
    ("contagious", Phase.FINAL),
]
"""Each failure and each phase once."""
REST = [(how, phase) for how in ("raise", "nan") for phase in (*Phase, "test") if (how, phase) not in SCORES]


INTERIM = {"interim_queries": (2,)}


@pytest.fixture(scope="module")
def whole(network):
    """The images, and a run without a fault in which the one that is going to fail is tested by the criterion."""
    x = images(7)
    with torch.no_grad():
        y = network(x).argmax(1)
    records, failed, _ = attacked(Mapped(network, lambda logits: logits), RandomNoise(eps=EPS), x, y, **INTERIM)
    assert not failed
    bad = next(number for number in range(7) if records[f"test/{number:04d}"].tested_candidates)
    return x, y, records, bad


def standing(records):
    """An image that gets final evaluations, because no candidate of it succeeded; the first one proves the victim."""
    return next(number for number in range(1, 7) if records[f"test/{number:04d}"].success_query is None)


@pytest.mark.parametrize(("how", "phase"), [*SCORES, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)])
def test_an_image_that_fails_in_any_phase_is_out_and_the_others_have_the_same_records(network, whole, how, phase):
    x, y, records, number = whole
    number = standing(records) if phase in (Phase.INTERIM, Phase.FINAL) else number
    bad = names([number])
    victim = Faulty(network, x[[number]], bad, how, phase)
    found, failed, _ = attacked(victim, RandomNoise(eps=EPS), x, y, **INTERIM)
    assert failed == {bad[0]: REASONS[how]}
    assert found == {image_id: record for image_id, record in records.items() if image_id not in bad}
    assert set(victim.shapes) == {(4, 3, 16, 16)}


@pytest.mark.parametrize("how", ["raise", pytest.param("nan", marks=pytest.mark.slow)])
def test_two_images_of_one_pass_that_fail_are_both_found(network, whole, how):
    x, y, records, _ = whole
    bad = names([1, 2])
    found, failed, engine = attacked(Faulty(network, x[[1, 2]], bad, how), RandomNoise(eps=EPS), x, y, **INTERIM)
    assert failed == dict.fromkeys(bad, REASONS[how])
    assert found == {image_id: record for image_id, record in records.items() if image_id not in bad}
    total = engine.ledger.total
    assert total["criterion"] == sum(record.criterion for record in found.values())
    assert total["attack"] == sum(record.attack for record in found.values())


@pytest.mark.parametrize(
    ("how", "phase", "options"),
    [
        ("raise", None, {"deterministic": True}),
        ("nan", Phase.ATTACK, {"eot": 2}),
        ("raise", Phase.FINAL, {"query_counting": "paper"}),
    ],
)
def test_so_it_is_with_other_accounts(network, whole, how, phase, options):
    x, y, _, number = whole
    sound = Mapped(network, lambda logits: logits)
    if phase == Phase.FINAL:
        number = standing(attacked(sound, Square(eps=EPS), x, y, **options)[0])
    bad = names([number])
    rest = [i for i in range(7) if i != number]
    without, none, _ = attacked(sound, Square(eps=EPS), x, y, rest, **options)
    found, failed, _ = attacked(Faulty(network, x[[number]], bad, how, phase), Square(eps=EPS), x, y, **options)
    assert (none, failed) == ({}, {bad[0]: REASONS[how]})
    assert found == without


@pytest.mark.parametrize(
    ("how", "reason", "eot"),
    [
        pytest.param("raise", REASONS["raise"], 2, marks=pytest.mark.slow),
        pytest.param("nan", REASONS["nan"], 1, marks=pytest.mark.slow),
        ("gradient", "the victim's gradient is NaN or infinity", 2),
        ("backward", "RuntimeError: no way back", 1),
    ],
)
def test_so_it_is_with_gradients(network, whole, how, reason, eot):
    x, y, _, number = whole
    bad = names([number])
    rest = [i for i in range(7) if i != number]
    attack = PGD(eps=EPS, steps=5, step=0.001)
    without, _, _ = attacked(Mapped(network, lambda logits: logits), attack, x, y, rest, budget=10, eot=eot)
    victim = Faulty(network, x[[number]], bad, how, Phase.ATTACK)
    found, failed, engine = attacked(victim, attack, x, y, budget=10, eot=eot)
    assert failed == {bad[0]: reason}
    assert found == without
    assert engine.ledger.total["gradient"] == sum(record.gradient for record in found.values())


def test_the_rows_of_repeated_passes_are_padding():
    # Four images in one pass. The pass raises, and so do the half with the second image and that image alone; the other
    # half and the first image alone are answered: 2 + 1 rows of images and 2 + 3 of padding, where the hook sees 8.
    # At the first point that was answered nobody asks again. Then three images: a pass of queries, two of final draws.
    x, y = images(4, (1, 4, 4)), torch.zeros(4, dtype=torch.int64)
    victim = Faulty(Constant(), x[[1]], ["test/0001"], "raise")
    found, failed, engine = attacked(
        victim, RandomNoise(eps=EPS), x, y, budget=1, classes=3, pool_size=4, deterministic=True
    )  # fmt: skip
    assert list(failed) == ["test/0001"]
    assert len(found) == 3
    assert engine.ledger.total == {
        "attack": 3,
        "gradient": 0,
        "success_check": 0,
        "criterion": 9,
        "checks": 0,
        "padding": 5 + 1 + 1 + 1,
    }
    assert len(victim.shapes) == 5 + 3


def test_no_later_pass_holds_what_the_victim_failed_on(network, whole):
    x, y, _, number = whole
    bad = names([number])
    victim = Faulty(network, x[[number]], bad, "raise")
    passes = []
    victim.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].clone()))
    attacked(victim, RandomNoise(eps=EPS), x, y, deterministic=True)
    with_bad = [i for i, batch in enumerate(passes) if bool((batch == x[number]).flatten(1).all(1).any())]
    # Four images, a half of two, and itself.
    assert len(with_bad) == 3
    assert with_bad[-1] - with_bad[0] <= 4
    assert len(passes) > 20


@pytest.mark.parametrize("how", ["raise", "nan", "contagious"])
@pytest.mark.parametrize(
    ("batch_size", "image", "bad", "answered", "failed"),
    [
        # As draws of three images, all of which are answered in one tick but those of the one that failed.
        (6, [4, 4, 4, 7, 2, 2], [3], [0, 1, 2, 4, 5], {7}),
        (6, [4, 4, 4, 7, 2, 2], [2, 5], [3], {4, 2}),
        # The second of the passes that memory left fails on an image that the first one has answered.
        (2, [4, 4, 4, 7, 2, 2], [2], [3, 4, 5], {4}),
        (3, [4, 7, 2, 4, 7, 2], [3], [1, 2, 4, 5], {4}),
    ],
)
def test_every_image_is_answered_whole_or_not_at_all(how, batch_size, image, bad, answered, failed):
    points = images(6, (1, 2, 2))
    oracle, ledger = Oracle(Faulty(BySum(), points[bad], names(bad), how), batch_size), Ledger()
    question = {"points": points, "clock": torch.zeros(6, dtype=torch.int64), "image": torch.tensor(image)}
    found = ErrorIsolation(oracle, ledger).evaluate(
        "criterion", question, lambda part: (oracle.scores(part["points"], part["clock"], "criterion"),)
    )
    assert found.rows.tolist() == answered
    assert torch.equal(found.values[0], BySum()(points[answered]))
    assert found.failed.keys() == failed
    assert ledger.total["padding"] == oracle.forwarded - len(answered)


def test_a_random_victim_goes_on_as_well():
    x, y = images(8, (3, 4, 4)), torch.zeros(8, dtype=torch.int64)
    victim = Faulty(CoinFlip(), x[[0, 5]], names([0, 5]), "raise")
    found, failed, _ = attacked(victim, RandomNoise(eps=EPS), x, y, classes=3, batch_size=5)
    assert sorted(failed) == names([0, 5])
    assert sorted(found) == names([1, 2, 3, 4, 6, 7])


def test_a_pass_that_only_a_crowd_fails_harms_nobody():
    class Crowded(Constant):
        def forward(self, x):
            if len(x.flatten(1).unique(dim=0)) > 2:
                raise RuntimeError("too many")
            return super().forward(x)

    x, y = images(6, (1, 4, 4)), torch.zeros(6, dtype=torch.int64)
    found, failed, _ = attacked(Crowded(), RandomNoise(eps=EPS), x, y, classes=3, deterministic=True)
    assert failed == {}
    assert len(found) == 6
    assert {record.attack for record in found.values()} == {12}


# A victim that is broken, and not its images


class Ending(Constant):
    """Answers so many times, then raises; or not even that."""

    def __init__(self, passes):
        super().__init__()
        self.left = passes

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("gone")
        return super().forward(x)


@pytest.mark.parametrize("passes", [0, 1, 5])
def test_a_victim_that_fails_on_all_from_some_time_on_ends_the_run(passes):
    x, y = images(12, (1, 4, 4)), torch.zeros(12, dtype=torch.int64)
    with pytest.raises(UserError, match=r"^the victim raised RuntimeError: gone$"):
        attacked(Ending(passes), RandomNoise(eps=EPS), x, y, classes=3, deterministic=True, budget=5)


@pytest.mark.parametrize(
    ("how", "attack", "text"),
    [
        ("nan", RandomNoise(eps=EPS), "the victim answered NaN or infinity; attacks need finite scores"),
        ("gradient", PGD(eps=EPS), "the victim's gradient is NaN or infinity; attack it by scores or labels"),
        ("raise", RandomNoise(eps=EPS), "the victim raised ValueError: cannot look"),
    ],
)
def test_a_victim_that_fails_on_every_query_ends_the_run(how, attack, text):
    x, y = images(6, (3, 4, 4)), torch.zeros(6, dtype=torch.int64)
    victim = Faulty(Constant(), x, names(range(6)), how, Phase.ATTACK)
    with pytest.raises(UserError) as caught:
        attacked(victim, attack, x, y, classes=3, deterministic=True)
    assert str(caught.value) == text


def test_the_last_images_may_all_fail():
    x, y = images(6, (3, 4, 4)), torch.zeros(6, dtype=torch.int64)
    victim = Faulty(Constant(), x[4:], names([4, 5]), "raise")
    found, failed, _ = attacked(
        victim, RandomNoise(eps=EPS), x, y, classes=3, deterministic=True, budget=3, pool_size=4
    )
    assert sorted(failed) == names([4, 5])
    assert sorted(found) == names(range(4))


def test_one_image_at_a_time_the_second_failure_in_a_row_from_the_start_ends_the_run():
    x, y = images(4, (3, 4, 4)), torch.zeros(4, dtype=torch.int64)
    options = {"classes": 3, "deterministic": True, "budget": 3, "batch_size": 1}
    first = Faulty(Constant(), x[:1], names([0]), "nan")
    found, failed, _ = attacked(first, RandomNoise(eps=EPS), x, y, **options)
    assert (list(failed), sorted(found)) == (names([0]), names([1, 2, 3]))
    # The last image took the place of the first one.
    two = Faulty(Constant(), x[[0, 3]], names([0, 3]), "nan")
    with pytest.raises(UserError, match="NaN"):
        attacked(two, RandomNoise(eps=EPS), x, y, **options)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_no_failure(error):
    class Interrupted(Constant):
        def forward(self, x):
            raise error

    x, y = images(4, (3, 4, 4)), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(error):
        attacked(Interrupted(), RandomNoise(eps=EPS), x, y, classes=3)


def test_who_does_not_listen_for_failures_is_told_by_an_error():
    x, y = images(4, (3, 4, 4)), torch.zeros(4, dtype=torch.int64)
    oracle = Oracle(Faulty(Linear(torch.ones(3, 4, 4), 0.0), x[[2]], ["c"], "raise"), 4)
    engine = engine_of(oracle, RandomNoise(eps=EPS), budget=3, pool_size=4)
    engine.submit(x, y, list("abcd"))
    with pytest.raises(UserError, match=r"^the victim fails on the image c: ValueError: cannot look$"):
        engine.run()

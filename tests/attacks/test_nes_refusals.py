"""NES goes on after refusals with other, larger probes and longer steps."""

import pytest
import torch
from attack_checks import points_under_refusals

import rfdlight as rfd
from rfdlight.attacks import NES
from rfdlight.core import rng
from rfdlight.defenses import Blacklight
from rfdlight.errors import UserError
from rfdlight.testing.small_victims import small_network

EPS, PAIRS, SIGMA, STEP = 0.1, 2, 0.01, 0.02
SETTINGS = {"progress": False, "sanity_checks": False}


def adapted(x, seed, refused, losses):
    """The queries of one image, of which those with `refused` get no answer; pair after pair, step after step."""
    answers, points = iter(zip(refused, losses, strict=True)), []
    iterate, wider, longer, draws = x, 0.0, 0.0, 0

    def query(point):
        is_refused, loss = next(answers)
        points.append(point.clamp(0, 1))
        return None if is_refused else loss

    try:
        while True:
            total = torch.zeros_like(x)
            for _ in range(PAIRS):
                pair = []
                while len(pair) < 2:
                    u = rng.normal(torch.tensor([seed]), 0, torch.tensor([draws]), tuple(x.shape))[0]
                    size = SIGMA * 2**wider
                    loss = query(iterate + (1 - 2 * len(pair)) * size * u)
                    pair = [] if loss is None else [*pair, loss]
                    if loss is None:
                        wider, draws = min(wider + 1, 6), draws + 1
                total, wider, draws = total + (pair[1] - pair[0]) / (2 * size) * u, max(wider - 1 / 8, 0), draws + 1
            moved = iterate + STEP * 2**longer * total.sign()
            iterate = torch.minimum(torch.maximum(moved, x - EPS), x + EPS).clamp(0, 1)
            longer = min(longer + 1, 6) if query(iterate) is None else max(longer - 1 / 8, 0)
    except StopIteration:
        return points


def test_a_refused_pair_is_redrawn_with_twice_the_sigma_and_a_step_to_a_refused_check_is_followed_by_a_longer_one():
    generator = torch.Generator().manual_seed(0)
    x, queries = torch.rand(3, 3, 6, 6, generator=generator), 60
    refused = torch.rand(queries, 3, generator=generator) < torch.tensor([0.0, 0.3, 0.7])
    losses = torch.randn(queries, 3, generator=generator)
    seed = torch.tensor([5, 6, 7])
    attack = NES(pairs=PAIRS, sigma=SIGMA, step=STEP, eps=EPS, on_refusal="adapt")
    made = points_under_refusals(attack, x, seed, refused, losses)
    for i in range(3):
        expected = adapted(x[i], int(seed[i]), refused[:, i].tolist(), losses[:, i].tolist())
        assert torch.allclose(made[:, i], torch.stack(expected), atol=1e-6), i


@pytest.mark.parametrize(("position", "name"), [(0, "wider"), (2 * PAIRS, "longer")])
def test_refusals_in_a_row_make_probes_and_steps_at_most_64_times_as_large(position, name):
    x, y = torch.rand(1, 3, 6, 6), torch.zeros(1, dtype=torch.int64)
    attack = NES(pairs=PAIRS, sigma=SIGMA, step=STEP, eps=EPS, on_refusal="adapt")
    state = {"x": x, "y": y, "seed": y, "budget": y + 60, "target": y - 1, **attack.init(x, y, y)}
    sizes = []
    for _ in range(8):
        state["queries"] = y + position
        attack.refused(state, attack.ask(state))
        sizes.append(2 ** state[name].item())
    assert sizes == [2, 4, 8, 16, 32, 64, 64, 64]


def victim_and_data():
    victim, x = small_network(), torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return victim, (x, victim(x).argmax(1))


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.5)])
def test_without_a_policy_adapting_changes_nothing(norm, eps):
    victim, data = victim_and_data()
    attacks = [NES(eps=eps, norm=norm, pairs=2, on_refusal=on) for on in ("end", "adapt")]
    runs = [rfd.evaluate(victim, data, attack, budget=30, **SETTINGS) for attack in attacks]
    assert runs[0].records == runs[1].records


def test_an_adapting_nes_goes_on_against_blacklight_where_nes_ends():
    victim, data = victim_and_data()
    options = {"eps": 0.02, "pairs": 2, "sigma": 0.001}
    settings = {**SETTINGS, "budget": 60, "defense": Blacklight("ban")}
    ended = rfd.evaluate(victim, data, NES(**options), **settings)
    assert {(r.refused, r.accounts, r.billed) for r in ended.records} == {(1, 2, 2)}
    adapted = rfd.evaluate(victim, data, NES(**options, on_refusal="adapt"), **settings)
    full = [r for r in adapted.records if r.billed == 60]
    assert full
    assert all(r.verdict == "adversarial" for r in adapted.records if r.billed < 60)
    # Sigma of 0.001 is found too small, and most queries are answered after that.
    assert all(2 < r.refused < 30 and r.accounts == r.refused + 1 for r in full)


def test_an_unknown_word_is_refused():
    with pytest.raises(UserError, match=r"^unknown attack.on_refusal 'wait'; known: adapt, end$"):
        NES(eps=0.1, on_refusal="wait")

"""What is special to NES."""

import ascent_checks
import pytest
import torch
from ascent_checks import (
    check_billing,
    check_claims,
    check_iterates,
    check_linear,
    check_paper_boundaries,
    check_reference,
    check_scale,
    check_standstill,
    grey,
)
from attack_checks import caught
from harness import Constant, Linear, Run, counted, drive, images, others_slow, takes_published_steps
from reference.nes import nes

from rfdlight.attacks import NES
from rfdlight.attacks.paper import BEHAVIOURS, PaperNES
from rfdlight.core import rng
from rfdlight.errors import UserError

SMALL = {"pairs": 3, "sigma": 0.05, "step": 0.02}


def reference_of(attack):
    def run(model, x, y, target, seed, budget):
        options = {name: getattr(attack, name) for name in ("eps", "norm", "pairs", "sigma", "step", "loss")}
        key = torch.tensor([seed])

        def normal(k):
            return rng.normal(key, 0, torch.tensor([k]), tuple(x.shape))[0]

        paper = takes_published_steps(attack)
        return nes(model, x, y, target, **options, paper=paper, budget=budget, normal=normal)

    return run


def check_nes_reference(attack, victim, x, y):
    check_reference(attack, reference_of(attack), victim, x[:3], y[:3], 40)


def check_nes_iterates(attack, victim, x, y):
    n = attack.pairs
    check_iterates(attack, victim, x[:3], y[:3], 2 * n + 1, 2 * n - 1, attack.step, float(attack.norm.strip("l")))


def check_pairs(attack, cycle=7):
    """The probes of a pair are opposite, of N(0, sigma) per pixel value, and no two pairs are the same."""
    x, y = grey(8, (3, 8, 8))
    attack.sigma = 0.01
    draws, first = [], None
    for q, (before, points, _, _) in enumerate(drive(attack, Constant(), x, y, budget=5 * cycle)):
        place = q % cycle
        offset = (points - before["point"]).double()
        if place == cycle - 1:
            assert (offset == 0).all()
        elif place % 2 == 0:
            first = offset
            draws.append(offset.flatten(1) / 0.01)
        else:
            assert (first + offset).abs().max() <= 1e-6
    u = torch.cat(draws)  # (8 * 15, 192)
    # 23,040 normals: |z| of mean and variance pass 4.5 in 1 of 150,000 runs each.
    size = u.numel()
    assert abs(float(u.mean())) * size**0.5 <= 4.5
    assert abs(float((u**2).mean() - 1)) * (size / 2) ** 0.5 <= 4.5
    overlap = (u @ u.T / u.shape[1]).fill_diagonal_(0).abs()
    assert float(overlap.max()) <= 6 / u.shape[1] ** 0.5


def check_direction(attack):
    """On a linear victim with margin g . x, G is the sum of -(g . u) u; its mean over n pairs is -n g.

    Each pair's value has the variance |g|^2 + g_j^2 in coordinate j. The largest of 8 * 48 values of z
    passes 5 in 1 of 4,000 runs if they are normal, which they nearly are over 300 pairs.
    """
    x, y = grey(8, (3, 4, 4))
    g = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    victim = Linear(g, 0.0)
    flat = g.flatten()
    attack.pairs, attack.sigma = 300, 0.01
    before = 0.0
    for q, (state, _, _, after) in enumerate(drive(attack, lambda p: victim(p).float(), x, y, budget=2 * 299)):
        descent = -after["direction"].flatten(1) @ flat
        if q % 2:
            u = rng.normal(state["seed"], 0, torch.full_like(y, q // 2), (48,))
            assert torch.allclose(descent - before, (u @ flat) ** 2, rtol=1e-2, atol=1e-2)
            before = descent
    total = after["direction"].flatten(1).double()
    z = (total + 299 * flat) / (299 * (flat.norm() ** 2 + flat**2)).sqrt()
    assert float(z.abs().max()) <= 5


def check_nes_billing(attack, query_counting="exact", budget=50, eot=1):
    n = attack.pairs
    check_billing(attack, query_counting, 2 * n, 2 * n + 1, budget, eot)


CASES = [
    {},
    {"loss": "cross_entropy"},
    {"targeted": True},
    {"norm": "l2", "eps": 0.5, "step": 0.2},
]


@pytest.mark.parametrize("query_counting", ["exact", "paper"])
@pytest.mark.parametrize("options", CASES, ids=str)
def test_each_query_is_the_references(network, clean, options, query_counting):
    attack = counted(NES(**{"eps": 0.05, **SMALL, **options}), query_counting)
    check_nes_reference(attack, network, clean[0][:1], clean[1][:1])


@pytest.mark.parametrize("query_counting", ["exact", "paper"])
@pytest.mark.parametrize("options", [{"eps": 0.05}, {"eps": 0.5, "norm": "l2", "step": 0.2}], ids=str)
def test_the_iterate_moves_once_per_iteration_by_at_most_a_step_inside_the_ball(
    network, clean, options, query_counting
):
    attack = counted(NES(**{**SMALL, **options}), query_counting)
    check_nes_iterates(attack, network, *clean)


def test_the_probes_of_a_pair_are_opposite_draws_from_the_normal_distribution():
    check_pairs(NES(eps=0.05, **SMALL))


@pytest.mark.slow
def test_the_direction_is_the_gradient_on_average():
    check_direction(NES(eps=0.05))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_equal_answers_leave_the_image_where_it_is(norm):
    check_standstill(NES(eps=0.05, norm=norm, **SMALL), 7)


@pytest.mark.parametrize("options", [{"eps": 0.05}, {"eps": 0.5, "norm": "l2", "step": 0.2}], ids=str)
def test_the_scale_of_the_logits_changes_nothing(network, clean, options):
    check_scale(NES(**{**SMALL, **options}), network, clean[0][:3], clean[1][:3], 30)


@pytest.mark.slow
def test_a_linear_victims_exact_minimum_is_approached_and_never_beaten():
    check_linear(NES(eps=0.05, pairs=20, sigma=0.01, step=0.005), 800, 0.75)


@pytest.mark.parametrize("query_counting", ["exact", "paper"])
@pytest.mark.parametrize(("budget", "eot"), others_slow([(50, 1), (42, 1), (60, 1), (50, 2)], 1, 3))
def test_bills_are_those_of_the_specification(query_counting, budget, eot):
    check_nes_billing(NES(eps=0.05, **SMALL), query_counting, budget, eot)


def test_only_looks_claim(network, clean):
    check_claims(NES(eps=0.1, **SMALL), network, *clean, cycle=7, look=6, budget=70)


def test_under_the_papers_accounting_images_break_after_whole_iterations(network, clean):
    check_paper_boundaries(NES(eps=0.1, **SMALL), network, *clean, used=6, budget=40)


@pytest.mark.parametrize(
    ("size", "sigma"), [((32, 32), 1 / 70), ((112, 150), 0.05), ((224, 224), 0.1), ((300, 300), 0.1)]
)
def test_by_default_probes_in_linf_grow_with_the_image_and_all_else_is_the_papers(size, sigma):
    x = torch.zeros(1, 3, *size)
    flat, round_ = NES(eps=0.05), NES(eps=5.0, norm="l2")
    assert (flat.pairs, flat.probe_size(x), flat.step) == (20, pytest.approx(sigma), 0.01)
    assert (round_.pairs, round_.probe_size(x), round_.step) == (15, 0.005, 1.0)
    assert [counted(attack, "paper").probe_size(x) for attack in (flat, round_)] == [0.1, 0.005]
    assert NES(eps=0.05, sigma=0.3).probe_size(x) == 0.3


@pytest.mark.parametrize(
    ("query_counting", "budget", "eot", "steps"),
    [("exact", 1000, 5, 3), ("exact", 60, 1, 1), ("exact", 119, 1, 1), ("paper", 1000, 5, 4), ("paper", 1000, 10, 2)],
)
def test_a_budget_that_cannot_reach_the_balls_surface_is_named(query_counting, budget, eot, steps):
    attack = counted(NES(eps=0.05, pairs=30, step=0.005), query_counting).configured(eot=eot)
    assert attack.budget_warning(budget) == (
        f"this budget allows {steps} steps of 0.005, so the attack stays within {steps * 0.005:g} of the image "
        "although eps is 0.05; raise model.budget or attack.step"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("query_counting", "enough"), others_slow([("exact", 204), ("paper", 161)], 0))
def test_the_least_budget_that_suffices_is_not_warned_of(query_counting, enough):
    attack = counted(NES(eps=0.05, step=0.01), query_counting)
    assert attack.budget_warning(enough) is None
    assert attack.budget_warning(enough - 1) is not None
    # That many queries do reach a corner on a victim whose gradient never changes.
    x = torch.full((1, 1, 2, 2), 0.5)
    victim = Linear(torch.ones(1, 1, 2, 2), 10.0)
    for limit, reached in ((enough, True), (enough - 1, False)):
        attack = NES(eps=0.05, sigma=0.01, step=0.01)
        run = Run(victim, attack, x, torch.zeros(1, dtype=torch.int64), budget=limit, query_counting=query_counting)
        assert (run.records[0].linf >= 0.05 - 1e-6) == reached


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pairs": 0}, "attack.pairs must be at least 1, got 0"),
        ({"sigma": 0.0}, "attack.sigma must be a positive number, got 0.0"),
        ({"sigma": float("nan")}, "attack.sigma must be a positive number, got nan"),
        ({"step": -0.1}, "attack.step must be a positive number, got -0.1"),
        ({"step": float("inf")}, "attack.step must be a positive number, got inf"),
        ({"norm": "l1"}, "attack.norm of NES must be linf or l2, got l1"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        NES(**options)


class Climbs(NES):
    """Sign: follows the gradient upwards."""

    def objective(self, state, logits):
        return -super().objective(state, logits)


class ForgetsTheCleanImage(NES):
    """Size: projects on a ball around the iterate."""

    def projected(self, x, point):
        return point.clamp(0, 1)


class SmallerProbes(NES):
    """Size: divides probes by the square root of the number of values, as others do."""

    def ask(self, state):
        whole = self.sigma
        self.sigma = whole / state["x"][0].numel() ** 0.5
        points = super().ask(state)
        self.sigma = whole
        return points


class DrawsAgain(NES):
    """Reading: the second probe of a pair has a draw of its own."""

    def ask(self, state):
        super().ask(state)
        state["draw"] = rng.normal(state["seed"], 0, state["queries"], tuple(state["x"].shape[1:]))
        position = self.position(state)
        side = torch.where(position == 2 * self.pairs, 0, 1 - 2 * (position % 2)).view(-1, 1, 1, 1)
        return (state["point"] + side * self.sigma * state["draw"]).clamp(0, 1)


class KeepsTheDirection(NES):
    """Reading: adds each iteration's direction to the last."""

    def step_along(self, state, rows, direction):
        super().step_along(state, rows, direction)
        self.kept = direction.clone()

    def collect(self, state, weight, complete):
        super().collect(state, weight, complete)
        if complete.any():
            state["direction"] = self.kept


class StepsOnZero(NES):
    """Sign: sgn(0) = 1."""

    def step_along(self, state, rows, direction):
        super().step_along(state, rows, torch.where(direction == 0, 1e-9, direction))


class HidesTheLook(NES):
    """Budget: bills the look as a query that the attack uses."""

    def is_success_check(self, state):
        return torch.zeros_like(super().is_success_check(state))


class NeverLooks(NES):
    """Budget: goes on without asking the new iterate."""

    def tell(self, state, points, answer):
        super().tell(state, points, answer)
        state["queries"] = state["queries"] + (self.position(state) == 2 * self.pairs)


class StopsAtOnce(NES):
    """Budget: under the paper's query counting, stops within an iteration."""


class EndsAtOnce(PaperNES):
    def ended(self, state, evaluated):
        return evaluated >= state["budget"]


BEHAVIOURS[StopsAtOnce] = EndsAtOnce


VICTIM = {"check_nes_reference", "check_nes_iterates"}

CAUGHT = [
    (Climbs, {}, ["check_nes_reference", "check_direction", "check_linear"]),
    (ForgetsTheCleanImage, {}, ["check_nes_reference", "check_nes_iterates"]),
    (SmallerProbes, {}, ["check_nes_reference", "check_pairs"]),
    (DrawsAgain, {}, ["check_nes_reference", "check_pairs"]),
    (KeepsTheDirection, {}, ["check_nes_reference"]),
    (StepsOnZero, {}, ["check_standstill"]),
    (HidesTheLook, {}, ["check_nes_reference", "check_nes_billing"]),
    (NeverLooks, {}, ["check_nes_reference", "check_nes_billing"]),
    (StopsAtOnce, {"query_counting": "paper"}, ["check_nes_billing"]),
]

MORE = {"check_linear": (600, 0.5), "check_standstill": (7,)}


@pytest.mark.parametrize(("mutant", "options", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, options, check, network, clean):
    attack = mutant(eps=0.05, **SMALL)
    found = globals().get(check) or getattr(ascent_checks, check)
    arguments = (network, *clean) if check in VICTIM else MORE.get(check, ())
    with pytest.raises(AssertionError):
        found(attack, *arguments, **options)


def test_no_columns_hold_draws():
    attack = NES(eps=0.05)
    x = images(2)
    columns = attack.init(x, torch.zeros(2, dtype=torch.int64), torch.arange(2))
    assert sum(column[0].numel() for column in columns.values()) <= 2 * x[0].numel() + 2

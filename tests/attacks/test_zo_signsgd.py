"""What is special to ZO-signSGD."""

import math

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
from harness import Linear, counted, drive, others_slow, takes_published_steps
from reference.zo_signsgd import zo_signsgd

from rfdlight.attacks import ZOSignSGD
from rfdlight.attacks.paper import BEHAVIOURS, PaperZOSignSGD, PublishedZOSignSGD
from rfdlight.core import rng
from rfdlight.errors import UserError

SMALL = {"samples": 4, "sigma": 0.05, "step": 0.02}


def reference_of(attack):
    def run(model, x, y, target, seed, budget):
        options = {name: getattr(attack, name) for name in ("eps", "norm", "samples", "sigma", "step", "loss")}
        key = torch.tensor([seed])

        def normal(k):
            return rng.normal(key, 0, torch.tensor([k]), tuple(x.shape))[0]

        return zo_signsgd(model, x, y, **options, paper=takes_published_steps(attack), budget=budget, normal=normal)

    return run


def check_zo_reference(attack, victim, x, y):
    check_reference(attack, reference_of(attack), victim, x[:3], y[:3], 40)


def check_zo_iterates(attack, victim, x, y):
    n = attack.samples
    cycle, moves_at = (n + 1, n) if not takes_published_steps(attack) else (2 * n + 1, 2 * n - 1)
    # Projection brings points together in the ball's norm.
    flat = attack.norm == "linf"
    length = attack.step if flat else attack.step * math.sqrt(x[0].numel())
    check_iterates(attack, victim, x[:3], y[:3], cycle, moves_at, length, float("inf") if flat else 2.0)


def check_zo_billing(attack, query_counting="exact", budget=50, eot=1):
    n = attack.samples
    used, cycle = (n + 1, n + 1) if query_counting == "exact" else (2 * n, 2 * n + 1)
    check_billing(attack, query_counting, used, cycle, budget, eot)


def check_direction(attack):
    """On a linear victim with margin g . x, G is the sum of -sigma (g . u) u; its mean over n probes is -n sigma g.

    Each probe's value, over sigma, has the variance |g|^2 + g_j^2 in coordinate j. The largest of 8 * 48
    values of z passes 5 in 1 of 4,000 runs if they are normal, which they nearly are over 300 probes.
    """
    x, y = grey(8, (3, 4, 4))
    g = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    victim = Linear(g, 0.0)
    flat = g.flatten()
    attack.samples, attack.sigma = 301, 0.01
    before = 0.0
    for q, (state, _, _, after) in enumerate(drive(attack, lambda p: victim(p).float(), x, y, budget=301)):
        descent = -after["direction"].flatten(1) @ flat / attack.sigma
        if q:
            u = rng.normal(state["seed"], 0, torch.full_like(y, q - 1), (48,))
            assert torch.allclose(descent - before, (u @ flat) ** 2, rtol=1e-2, atol=2e-2)
            before = descent
    total = after["direction"].flatten(1).double() / attack.sigma
    z = (total + 300 * flat) / (300 * (flat.norm() ** 2 + flat**2)).sqrt()
    assert float(z.abs().max()) <= 5


@pytest.mark.parametrize("query_counting", ["exact", "paper"])
@pytest.mark.parametrize("options", [{}, {"loss": "cross_entropy"}, {"norm": "l2", "eps": 0.5}], ids=str)
def test_each_query_is_the_references(network, clean, options, query_counting):
    attack = counted(ZOSignSGD(**{"eps": 0.05, **SMALL, **options}), query_counting)
    check_zo_reference(attack, network, clean[0][:1], clean[1][:1])


@pytest.mark.parametrize("query_counting", ["exact", "paper"])
@pytest.mark.parametrize("options", [{"eps": 0.05}, {"eps": 0.5, "norm": "l2"}], ids=str)
def test_the_iterate_moves_once_per_iteration_by_signs_of_a_step_inside_the_ball(
    network, clean, options, query_counting
):
    attack = counted(ZOSignSGD(**{**SMALL, **options}), query_counting)
    check_zo_iterates(attack, network, *clean)


def test_the_direction_is_the_gradient_on_average():
    check_direction(ZOSignSGD(eps=0.05))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_equal_answers_leave_the_image_where_it_is(norm):
    check_standstill(ZOSignSGD(eps=0.05, norm=norm, **SMALL), 5)


def test_the_scale_of_the_logits_changes_nothing(network, clean):
    check_scale(ZOSignSGD(eps=0.05, **SMALL), network, clean[0][:3], clean[1][:3], 30)


@pytest.mark.slow
def test_a_linear_victims_exact_minimum_is_approached_and_never_beaten():
    check_linear(ZOSignSGD(eps=0.05, samples=10, sigma=0.01, step=0.004), 1000, 0.8)


@pytest.mark.parametrize("query_counting", ["exact", "paper"])
@pytest.mark.parametrize(("budget", "eot"), others_slow([(50, 1), (48, 1), (50, 2)], 0, 2))
def test_bills_are_those_of_the_specification(query_counting, budget, eot):
    check_zo_billing(ZOSignSGD(eps=0.05, **SMALL), query_counting, budget, eot)


@pytest.mark.parametrize(("query_counting", "cycle", "look"), [("exact", 5, 0), ("paper", 9, 8)])
def test_only_queries_at_the_iterate_claim(network, clean, query_counting, cycle, look):
    attack = counted(ZOSignSGD(eps=0.1, **SMALL), query_counting)
    check_claims(attack, network, *clean, cycle=cycle, look=look, budget=72)


def test_under_the_papers_accounting_images_break_after_whole_iterations(network, clean):
    check_paper_boundaries(ZOSignSGD(eps=0.1, **SMALL), network, *clean, used=8, budget=60)


@pytest.mark.parametrize(("size", "sigma"), [((32, 32), 1 / 70), ((150, 112), 0.05), ((300, 300), 0.1)])
def test_by_default_probes_grow_with_the_image_and_all_else_is_the_papers(size, sigma):
    x = torch.zeros(1, 3, *size)
    attack = ZOSignSGD(eps=0.05)
    assert (attack.samples, attack.probe_size(x), attack.step) == (15, pytest.approx(sigma), 0.01)
    assert counted(attack, "paper").probe_size(x) == 0.1
    assert ZOSignSGD(eps=0.05, sigma=0.3).probe_size(x) == 0.3


@pytest.mark.parametrize(("query_counting", "enough"), [("exact", 80), ("paper", 121)])
def test_a_budget_that_cannot_reach_the_balls_surface_is_named(query_counting, enough):
    attack = counted(ZOSignSGD(eps=0.05, step=0.01), query_counting)
    assert attack.budget_warning(enough) is None
    assert attack.budget_warning(enough - 1) == (
        "this budget allows 4 steps of 0.01, so the attack stays within 0.04 of the image although eps is 0.05; "
        "raise model.budget or attack.step"
    )
    assert ZOSignSGD(eps=0.5, norm="l2").budget_warning(1) is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"samples": 0}, "attack.samples must be at least 1, got 0"),
        ({"sigma": 0.0}, "attack.sigma must be a positive number, got 0.0"),
        ({"step": float("nan")}, "attack.step must be a positive number, got nan"),
        ({"targeted": True}, "ZOSignSGD has no targeted form; leave attack.targeted at false"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        ZOSignSGD(**options)


class Climbs(ZOSignSGD):
    """Sign: follows the gradient upwards."""

    def objective(self, state, logits):
        return -super().objective(state, logits)


class StepsTwice(ZOSignSGD):
    """Size: steps of twice the length."""

    def step_along(self, state, rows, direction):
        whole = self.step
        self.step = 2 * whole
        super().step_along(state, rows, direction)
        self.step = whole


class TakesTheGradientItself(ZOSignSGD):
    """Size: in l2, a step along the direction instead of its signs."""

    def step_along(self, state, rows, direction):
        length = direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp_min(1e-30)
        moved = self.threat.project(state["x"], state["point"] + self.step * direction / length)
        state["point"] = torch.where(rows.view(-1, 1, 1, 1), moved, state["point"])


class ForgetsTheBase(ZOSignSGD):
    """Reading: compares each probe with the one before it."""

    def tell(self, state, points, answer):
        super().tell(state, points, answer)
        state["first"] = self.objective(state, answer)


class StepsOnZero(ZOSignSGD):
    """Sign: sgn(0) = 1."""

    def step_along(self, state, rows, direction):
        super().step_along(state, rows, torch.where(direction == 0, 1e-9, direction))


class RepeatsDraws(ZOSignSGD):
    """Reading: each iteration has the draws of the first."""

    def ask(self, state):
        super().ask(state)
        position = self.position(state)
        state["draw"] = rng.normal(state["seed"], 0, (position - 1).clamp_min(0), tuple(state["x"].shape[1:]))
        return (state["point"] + (position > 0).view(-1, 1, 1, 1) * self.sigma * state["draw"]).clamp(0, 1)


class SharesTheBase(PublishedZOSignSGD):
    """Budget: under the paper's query counting too, one query at the iterate serves all samples."""

    def tell(self, state, points, answer):
        super().tell(state, points, answer)
        position = self.position(state)
        skips = (position % 2 == 0) & (position > 0) & (position < 2 * self.samples)
        state["queries"] = state["queries"] + skips


class StopsAtOnce(ZOSignSGD):
    """Budget: under the paper's query counting, stops within an iteration."""


class EndsAtOnce(PaperZOSignSGD):
    def ended(self, state, evaluated):
        return evaluated >= state["budget"]


BEHAVIOURS[StopsAtOnce] = EndsAtOnce


VICTIM = {"check_zo_reference", "check_zo_iterates"}

CAUGHT = [
    (Climbs, {}, ["check_zo_reference", "check_direction", "check_linear"]),
    (StepsTwice, {}, ["check_zo_reference"]),
    (TakesTheGradientItself, {}, ["check_zo_reference"]),
    (ForgetsTheBase, {}, ["check_zo_reference", "check_direction"]),
    (StepsOnZero, {}, ["check_standstill"]),
    (RepeatsDraws, {}, ["check_zo_reference"]),
    (SharesTheBase, {"query_counting": "paper"}, ["check_zo_billing"]),
    (StopsAtOnce, {"query_counting": "paper"}, ["check_zo_billing"]),
]

MORE = {"check_linear": (600, 0.5), "check_standstill": (5,)}


@pytest.mark.parametrize(("mutant", "options", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, options, check, network, clean):
    attack = mutant(eps=0.05, **SMALL)
    found = globals().get(check) or getattr(ascent_checks, check)
    arguments = (network, *clean) if check in VICTIM else MORE.get(check, ())
    with pytest.raises(AssertionError):
        found(attack, *arguments, **options)


def test_a_step_of_twice_the_length_is_seen_at_the_iterates(network, clean):
    attack = StepsTwice(eps=0.05, **{**SMALL, "step": 0.01})
    with pytest.raises(AssertionError):
        check_iterates(attack, network, clean[0][:3], clean[1][:3], 5, 4, 0.01, float("inf"))

"""What is special to Bandits."""

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
    check_standstill,
    grey,
)
from attack_checks import caught
from harness import counted, drive, one_by_one, others_slow, takes_published_steps
from reference.bandits import bandits, enlarge, exponentiated

from rfdlight.attacks import Bandits
from rfdlight.attacks.paper import BEHAVIOURS, PaperBandits
from rfdlight.core import rng
from rfdlight.core.losses import margin
from rfdlight.errors import UserError

SMALL = {"step": 0.02, "prior_step": 100.0}
ROUND = {"norm": "l2", "eps": 0.5, "step": 0.2, "probe": 0.1, "prior_step": 1.0}


def reference_of(attack):
    def run(model, x, y, target, seed, budget):
        names = ("eps", "norm", "probe", "exploration", "prior_step", "step", "loss")
        options = {name: getattr(attack, name) for name in names}
        side = attack.side(*x.shape[1:])
        key = torch.tensor([seed])

        def normal(k):
            return rng.normal(key, 0, torch.tensor([k]), (x.shape[0], side, side))[0]

        paper = takes_published_steps(attack)
        return bandits(model, x, y, side=side, **options, paper=paper, budget=budget, normal=normal)

    return run


def check_bandits_reference(attack, victim, x, y):
    """To 1e-5: the reference keeps its prior in double precision, and v itself instead of atanh(v)."""
    check_reference(attack, reference_of(attack), victim, x[:3], y[:3], 30, replay=1e-5)


def check_bandits_iterates(attack, victim, x, y):
    check_iterates(attack, victim, x[:3], y[:3], 3, 1, attack.step, float(attack.norm.strip("l")))


def check_bandits_billing(attack, query_counting="exact", budget=50, eot=1):
    check_billing(attack, query_counting, 2, 3, budget, eot)


def v_of(attack, state):
    return state["prior"].double().tanh() if attack.norm == "linf" else state["prior"].double()


def check_probes(attack):
    """Probes are at their length from the iterate along up(v + u) and up(v - u), u being of length exploration."""
    x, y = grey(4, (3, 7, 8))
    generator = torch.Generator().manual_seed(1)
    answers = torch.randn(40, 4, 2, generator=generator)
    side = attack.side(7, 8)
    lengths = []
    ticks = drive(attack, lambda _: answers[q], x, y, budget=30)
    q = 0
    for q, (before, points, _, _) in enumerate(ticks, 1):
        if (q - 1) % 3 == 2:
            continue
        offset = (points - before["point"]).double()
        assert torch.allclose(offset.flatten(1).norm(dim=1), torch.tensor(attack.probe).double(), rtol=1e-3)
        u = rng.normal(before["seed"], 0, torch.full_like(y, (q - 1) // 3), (3, side, side)).double()
        u = u * attack.exploration / math.sqrt(3 * side**2)
        lengths.append(u.flatten(1).norm(dim=1))
        for row, (v, draw) in enumerate(zip(v_of(attack, before), u, strict=True)):
            along = enlarge((v + draw * (1 if (q - 1) % 3 == 0 else -1)).tolist(), 7, 8).double()
            assert torch.allclose(offset[row], attack.probe * along / along.norm(), rtol=0, atol=1e-5)
    # The length of 75 or more normals, over its mean: within 1 +- 0.4 at 5 standard deviations.
    assert ((torch.stack(lengths) / attack.exploration - 1).abs() <= 0.4).all()


def check_prior(attack, victim, x, y):
    """The prior takes the specified step after the second probe, and none at other queries."""
    answer, first = one_by_one(victim), None
    side = attack.side(*x.shape[2:])
    for q, (before, _, logits, after) in enumerate(drive(attack, answer, x, y, budget=30)):
        old, new = v_of(attack, before), v_of(attack, after)
        if attack.norm == "linf":
            assert new.abs().max() <= 1
        loss = margin(logits, y).double()
        if q % 3 == 0:
            first = loss
        if q % 3 != 1:
            assert torch.equal(old, new)
            continue
        u = rng.normal(before["seed"], 0, torch.full_like(y, q // 3), (x.shape[1], side, side)).double()
        u = u * attack.exploration / math.sqrt(u[0].numel())
        gradient = ((loss - first) / (attack.probe * attack.exploration)).view(-1, 1, 1, 1) * u
        if attack.norm == "linf":
            expected = exponentiated(old, gradient, attack.prior_step)
        else:
            expected = old + attack.prior_step * gradient
        assert torch.allclose(new, expected, rtol=1e-4, atol=1e-6)
        assert not torch.equal(old, new)


@pytest.mark.parametrize(
    ("options", "query_counting"),
    [({"loss": "cross_entropy"}, "exact"), ({"prior_side": 7}, "exact"), ({}, "paper"), (ROUND, "exact")],
    ids=str,
)
def test_each_query_is_the_references(network, clean, options, query_counting):
    attack = counted(Bandits(**{"eps": 0.05, **SMALL, **options}), query_counting)
    check_bandits_reference(attack, network, clean[0][:1], clean[1][:1])


@pytest.mark.parametrize("query_counting", ["exact", "paper"])
@pytest.mark.parametrize("options", [{"eps": 0.05}, ROUND], ids=str)
def test_the_iterate_moves_once_per_step_inside_the_ball(network, clean, options, query_counting):
    attack = counted(Bandits(**{**SMALL, **options}), query_counting)
    check_bandits_iterates(attack, network, *clean)


@pytest.mark.parametrize("options", [{"eps": 0.05, "prior_side": 5}, {**ROUND, "prior_side": 5}], ids=str)
def test_probes_lie_along_the_prior_and_a_draw(options):
    check_probes(Bandits(**{**SMALL, **options}))


@pytest.mark.parametrize("options", [{"eps": 0.05}, ROUND], ids=str)
def test_the_prior_takes_the_specified_steps(network, clean, options):
    check_prior(Bandits(**{**SMALL, **options}), network, clean[0][:3], clean[1][:3])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_equal_answers_leave_the_image_where_it_is(norm):
    check_standstill(Bandits(eps=0.05, norm=norm), 3)


def test_a_prior_of_large_steps_neither_overflows_nor_gets_stuck():
    # Losses that differ by 50 would overflow exp(); after 20 steps one way, 40 the other way bring v back.
    attack = Bandits(eps=0.05, prior_step=100.0)
    x, y = grey(1, (1, 1, 1))
    signs = []
    q = 0

    def answer(points):
        draw = rng.normal(torch.tensor([100]), 0, torch.tensor([q // 3]), (1,)).item()
        up = (1 if q % 3 == 0 else -1) * (1 if draw > 0 else -1) * (1 if q < 60 else -1)
        return torch.tensor([[-50.0 * up, 0.0]])

    for _, points, _, after in drive(attack, answer, x, y, budget=240):
        q += 1
        assert points.isfinite().all()
        assert after["prior"].isfinite().all()
        signs.append(float(after["prior"].sign()))
    assert signs[59] == 1
    assert signs[-1] == -1


@pytest.mark.slow
def test_a_linear_victims_exact_minimum_is_approached_and_never_beaten():
    check_linear(Bandits(eps=0.05, step=0.005, prior_side=4, prior_step=1.0), 600, 0.8)


@pytest.mark.parametrize("query_counting", ["exact", "paper"])
@pytest.mark.parametrize(("budget", "eot"), others_slow([(50, 1), (51, 1), (50, 3)], 1, 2))
def test_bills_are_those_of_the_specification(query_counting, budget, eot):
    check_bandits_billing(Bandits(eps=0.05), query_counting, budget, eot)


def test_only_looks_claim(network, clean):
    check_claims(Bandits(eps=0.1, **SMALL), network, *clean, cycle=3, look=2, budget=60)


def test_under_the_papers_accounting_images_break_after_whole_steps(network, clean):
    check_paper_boundaries(Bandits(eps=0.1, **SMALL), network, *clean, used=2, budget=60)


def test_defaults_are_the_authors_in_each_norm():
    names = ("probe", "step", "prior_step", "exploration")
    flat, round_ = Bandits(eps=0.05), Bandits(eps=5.0, norm="l2")
    assert [getattr(flat, name) for name in names] == [0.1, 0.01, 100.0, 1.0]
    assert [getattr(round_, name) for name in names] == [0.01, 0.5, 0.1, 0.01]


@pytest.mark.parametrize(
    ("size", "side"),
    [((224, 224), 50), ((299, 299), 50), ((32, 32), 20), ((8, 8), 5), ((4, 4), 2), ((1, 1), 1), ((32, 48), 20)],
)
def test_the_priors_side_follows_the_images(size, side):
    assert Bandits(eps=0.05).side(*size) == side
    assert Bandits(eps=0.05, prior_side=1).side(*size) == 1


def test_a_budget_that_cannot_reach_the_balls_surface_is_named():
    attack = Bandits(eps=0.05)
    assert attack.budget_warning(14) is None
    assert attack.budget_warning(13) == (
        "this budget allows 4 steps of 0.01, so the attack stays within 0.04 of the image although eps is 0.05; "
        "raise model.budget or attack.step"
    )
    attack = counted(attack, "paper")
    assert attack.budget_warning(9) is None
    assert attack.budget_warning(8) is not None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prior_side": 0}, "attack.prior_side must be at least 1, got 0"),
        ({"probe": 0.0}, "attack.probe must be a positive number, got 0.0"),
        ({"exploration": -1.0}, "attack.exploration must be a positive number, got -1.0"),
        ({"prior_step": float("inf")}, "attack.prior_step must be a positive number, got inf"),
        ({"step": float("nan")}, "attack.step must be a positive number, got nan"),
        ({"targeted": True}, "Bandits has no targeted form; leave attack.targeted at false"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        Bandits(**options)


class Climbs(Bandits):
    """Sign: moves the prior the wrong way, as the paper's code does."""

    def objective(self, state, logits):
        return -super().objective(state, logits)


class AddsToThePrior(Bandits):
    """Reading: in linf too, the prior is moved by adding."""

    def _v(self, state):
        return state["prior"]


class ForgetsThePrior(Bandits):
    """Reading: probes along u alone."""

    def _v(self, state):
        return 0 * state["prior"]


class ForgetsTheRoot(Bandits):
    """Size: u is not divided by the square root of its number of values."""

    def ask(self, state):
        whole = self.exploration
        self.exploration = whole * math.sqrt(state["prior"][0].numel())
        points = super().ask(state)
        self.exploration = whole
        return points


class ProbesTheSameSide(Bandits):
    """Reading: both probes along v + u."""

    def ask(self, state):
        second = state["queries"] % 3 == 1
        state["queries"] = state["queries"] - second.long()
        points = super().ask(state)
        state["queries"] = state["queries"] + second.long()
        return points


class StepsTwice(Bandits):
    """Size: image steps of twice the length."""

    def tell(self, state, points, answer):
        whole = self.step
        self.step = 2 * whole
        super().tell(state, points, answer)
        self.step = whole


class HidesTheLook(Bandits):
    """Budget: bills the look as a query that the attack uses."""

    def is_success_check(self, state):
        return torch.zeros_like(super().is_success_check(state))


class StopsAtOnce(Bandits):
    """Budget: under the paper's query counting, stops within a step."""


class EndsAtOnce(PaperBandits):
    def ended(self, state, evaluated):
        return evaluated >= state["budget"]


BEHAVIOURS[StopsAtOnce] = EndsAtOnce


VICTIM = {"check_bandits_reference", "check_bandits_iterates", "check_prior"}

CAUGHT = [
    (Climbs, {}, ["check_bandits_reference", "check_linear", "check_prior"]),
    (AddsToThePrior, {}, ["check_bandits_reference", "check_probes"]),
    (ForgetsThePrior, {}, ["check_bandits_reference", "check_probes"]),
    (ForgetsTheRoot, {}, ["check_bandits_reference", "check_probes", "check_prior"]),
    (ProbesTheSameSide, {}, ["check_bandits_reference", "check_probes"]),
    (StepsTwice, {}, ["check_bandits_reference"]),
    (HidesTheLook, {}, ["check_bandits_reference", "check_bandits_billing"]),
    (StopsAtOnce, {"query_counting": "paper", "budget": 51}, ["check_bandits_billing"]),
]

MORE = {"check_linear": (600, 0.5)}


@pytest.mark.parametrize(("mutant", "options", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, options, check, network, clean):
    attack = mutant(eps=0.05, **SMALL)
    found = globals().get(check) or getattr(ascent_checks, check)
    arguments = (network, *clean) if check in VICTIM else MORE.get(check, ())
    with pytest.raises(AssertionError):
        found(attack, *arguments, **options)

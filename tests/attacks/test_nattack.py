"""What is special to NAttack; at the end, mutants that its checks must catch."""

import ascent_checks
import pytest
import torch
from ascent_checks import check_linear, check_scale, grey
from attack_checks import caught
from harness import Linear, drive
from reference.nattack import nattack
from torch.nn.functional import interpolate

from rfdlight.attacks import NAttack
from rfdlight.core import rng
from rfdlight.errors import UserError

SMALL = {"population": 5, "sigma": 0.2, "step": 0.2}


def check_reference(attack, victim, x, y, budget=12):
    """Query by query, points and the submitted points are the reference's."""

    def reference(model, x, y, target, seed, budget):
        names = ("eps", "norm", "population", "sigma", "step", "loss")
        grid = min(32 if attack.grid is None else attack.grid, *x.shape[1:])

        def normal(k):
            return rng.normal(torch.tensor([seed]), 0, torch.tensor([k]), (len(x), grid, grid))[0]

        options = {name: getattr(attack, name) for name in names}
        return nattack(model, x, y, target, **options, grid=grid, budget=budget, normal=normal)

    ascent_checks.check_reference(attack, reference, victim, x[:2], y[:2], budget, replay=2e-5)


def check_step(attack, population=300):
    """On a margin that is linear in z with gradient g, E[step of mu] is -(step / sigma) g / |g|, to first order.

    The mean over a population of u standardised losses is g / |g|, with variance (1 + g_j^2 / |g|^2) / n in coordinate
    j. The largest of 8 * 48 values of z passes 5 in 1 of 4,000 runs.
    """
    attack.population, attack.sigma = population, 0.01
    x, y = torch.full((8, 3, 4, 4), 0.5), torch.zeros(8, dtype=torch.int64)
    g = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    victim = Linear(g, 0.0)
    *_, (_, _, _, after) = drive(attack, lambda p: victim(p).float(), x, y, budget=population)
    along = (g / g.norm()).flatten().double()
    moved = after["mu"].flatten(1).double() * attack.sigma / attack.step
    z = (moved + along) * population**0.5 / (1 + along**2).sqrt()
    assert float(z.abs().max()) <= 5, float(z.abs().max())


def check_population(attack, victim, x, y):
    """mu moves after whole populations alone; samples and what is submitted stay in [0, 1] and in the ball."""
    n = attack.population
    for q, (before, points, _, after) in enumerate(drive(attack, victim, x, y, budget=4 * n)):
        moved = (before["mu"] != after["mu"]).flatten(1).any(1)
        assert (moved == (q % n == n - 1)).all()
        for inside in (points, attack.best(after)):
            assert inside.min() >= 0
            assert inside.max() <= 1
            assert attack.threat.contains(x, inside).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"loss": "cross_entropy"}, {"targeted": True}, {"norm": "l2", "eps": 0.5}, {"grid": 3}],
    ids=str,
)
def test_each_query_is_the_references(network, clean, options):
    check_reference(NAttack(**{"eps": 0.05, **SMALL, **options}), network, clean[0][:1], clean[1][:1])


def test_the_step_is_along_the_gradient_on_average():
    check_step(NAttack(eps=0.3))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_mu_moves_once_per_population_and_samples_stay_in_the_ball(network, clean, norm):
    check_population(NAttack(eps=0.03, norm=norm, **SMALL), network, clean[0][:3], clean[1][:3])


@pytest.mark.slow
def test_a_linear_victims_exact_minimum_is_approached_and_never_beaten():
    check_linear(NAttack(eps=0.05, population=20, sigma=0.1, step=0.1), 600, 0.85)


def test_the_scale_of_the_logits_changes_nothing(network, clean):
    check_scale(NAttack(eps=0.05, **SMALL), network, clean[0][:3], clean[1][:3], 15)


def test_equal_answers_leave_mu_where_it_is():
    x, y = grey(3, (3, 4, 4))
    for *_, after in drive(NAttack(eps=0.05, **SMALL), lambda p: torch.tensor([[1.0, 0.3]] * 3), x, y, budget=15):
        assert not after["mu"].any()


def test_pixels_at_the_ends_of_the_range_give_finite_points():
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4).contiguous()
    attack = NAttack(eps=0.05)
    state = {"x": x, "seed": torch.arange(2), **attack.init(x, torch.zeros(2, dtype=torch.int64), torch.arange(2))}
    assert attack.ask(state).isfinite().all()
    torch.testing.assert_close(attack.best(state), x, rtol=0, atol=1e-6)


def test_a_population_that_the_budget_does_not_hold_is_cautioned():
    assert NAttack(eps=0.05, population=40).budget_warning(41) is None
    text = "a population of 40 leaves no step of 40 queries; lower attack.population"
    assert NAttack(eps=0.05, population=40).budget_warning(40) == text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"population": 1}, "attack.population must be at least 2, got 1"),
        ({"grid": 0}, "attack.grid must be at least 1, got 0"),
        ({"sigma": 0.0}, "attack.sigma must be a positive number, got 0.0"),
        ({"step": -0.1}, "attack.step must be a positive number, got -0.1"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        NAttack(**options)


class Climbs(NAttack):
    """Sign: raises the loss."""

    def objective(self, state, logits):
        return -super().objective(state, logits)


class ForgetsTheMean(NAttack):
    """Reading: losses are compared with the first one, not with the mean."""

    def _move(self, state, rows):
        state["drawn"] = torch.zeros_like(state["drawn"])
        super()._move(state, rows)


class ForgetsSigma(NAttack):
    """Size: the step is not divided by sigma."""

    def _move(self, state, rows):
        whole = self.step
        self.step = whole * self.sigma
        super()._move(state, rows)
        self.step = whole


class KeepsThePopulation(NAttack):
    """Schedule: samples of earlier populations count again."""

    def _move(self, state, rows):
        before = {name: state[name] for name in ("losses", "squares", "drawn", "weighted")}
        super()._move(state, rows)
        state.update(before)


class LeavesTheBall(NAttack):
    """Size: what is submitted is not projected."""

    def best(self, state):
        z = interpolate(state["mu"] + 3, state["x"].shape[2:], mode="bilinear")
        return ((2 * state["x"] - 1) * 0.999 + z).tanh().add(1).div(2)


class EnlargesByCells(NAttack):
    """Size: the grid is enlarged by its nearest values."""

    def _point(self, x, z):
        return super()._point(x, interpolate(z, x.shape[2:]))


CAUGHT = [
    (Climbs, {}, ["check_reference", "check_step", "check_linear"]),
    (ForgetsTheMean, {}, ["check_reference"]),
    (ForgetsSigma, {}, ["check_step", "check_reference"]),
    (KeepsThePopulation, {}, ["check_reference"]),
    (LeavesTheBall, {}, ["check_population"]),
    (EnlargesByCells, {"grid": 3}, ["check_reference"]),
]


MORE = {"check_linear": (300, 0.5), "check_step": ()}
"""The checks that take no victim, and their arguments."""


@pytest.mark.parametrize(("mutant", "options", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, options, check, network, clean):
    attack = mutant(eps=0.05, **SMALL, **options)
    budget = () if check == "check_population" else (12,)
    arguments = MORE.get(check, (network, clean[0][:2], clean[1][:2], *budget))
    with pytest.raises(AssertionError):
        globals()[check](attack, *arguments)

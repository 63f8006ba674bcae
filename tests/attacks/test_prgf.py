"""What is special to P-RGF."""

import math

import pytest
import torch
from ascent_checks import check_reference, check_scale, grey
from attack_checks import caught
from harness import Linear, drive, one_by_one, others_slow
from reference.prgf import prgf
from test_transfer import SURROGATE, surrogate_of

from rfdlight.attacks import PRGF
from rfdlight.attacks.prgf import optimal_weight
from rfdlight.core import rng
from rfdlight.errors import UserError

SMALL = {"eps": 0.05, "samples": 3, "norm_samples": 2, "sigma": 0.01, "step": 0.02}
NAMES = ("eps", "norm", "samples", "norm_samples", "sigma", "step", "loss")


def reference_of(attack):
    def run(model, x, y, target, seed, budget):
        ask = surrogate_of(attack, SURROGATE, y, target)

        def normal(k):
            return rng.normal(torch.tensor([seed]), 0, torch.tensor([k]), tuple(x.shape))[0]

        options = {name: getattr(attack, name) for name in NAMES}
        return prgf(model, lambda p: ask(p)[1], x, y, target, **options, budget=budget, normal=normal)

    return run


def check_prgf_reference(attack, victim, x, y):
    check_reference(attack, reference_of(attack), victim, x[:2], y[:2], 24, replay=1e-5)


def linear(seed, shape=(3, 8, 8)):
    return Linear(torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)), 0.0)


def across(victim, seed=7):
    """A linear surrogate with a gradient orthogonal to the victim's."""
    other, weight = linear(seed, victim.weight.shape[1:]), victim.weight
    other.weight -= (other.weight * weight).sum() / weight.square().sum() * weight
    return other


def check_true_gradient(form, norm):
    """The surrogate is the victim: lambda is 1, an iteration takes 2 + S queries, and its step is optimal."""
    victim, step = linear(1), {"linf": 0.02, "l2": 0.3}[norm]
    x, y = grey(3, (3, 8, 8))
    options = {**SMALL, "norm": norm, "eps": 3 * step, "step": step, "samples": 5}
    attack = form(victim, **options)
    *_, (_, _, _, after) = drive(attack, lambda p: victim(p).float(), x, y, budget=8)
    assert (after["weight"] == 1).all()
    direction = victim.weight.sign() if norm == "linf" else victim.weight / victim.weight.norm()
    torch.testing.assert_close(attack.best(after), x - 2 * step * direction.expand_as(x), atol=1e-5, rtol=0)


def check_orthogonal_gradient(form):
    """The surrogate's gradient is orthogonal to the victim's: lambda is 0, and v has no part in probes and steps."""
    victim = linear(1)
    attack = form(across(victim), **{**SMALL, "samples": 40, "norm_samples": 4, "norm": "l2", "eps": 9.0, "step": 0.1})
    x, y = grey(6, (3, 8, 8))
    for q, (_, points, _, after) in enumerate(drive(attack, lambda p: victim(p).float(), x, y, budget=46)):
        offset, prior = points - x, after["prior"]
        if q > 5:
            assert (after["weight"] == 0).all()
            assert (offset * prior).flatten(1).sum(1).abs().max() <= 1e-5
            assert (offset.flatten(1).norm(dim=1) - 0.01 * math.sqrt(192)).abs().max() <= 1e-5
    moved = attack.best(after) - x
    assert (moved * prior).flatten(1).sum(1).abs().max() <= 1e-5
    # The cosine of an estimate from q of D directions with the gradient is about sqrt(q / (D + q)).
    cosine = -(moved * victim.weight).flatten(1).sum(1) / (moved.flatten(1).norm(dim=1) * victim.weight.norm())
    assert float(cosine.mean()) == pytest.approx(math.sqrt(40 / 232), abs=0.12)


def check_cosine(form):
    """Between the two, lambda is that of the true cosine, and each probe has the cosine sqrt(lambda) with v.

    Of 200 norm samples the square of the norm has a relative deviation of 0.1; z passes 4.5 in 1 of 150,000.
    """
    victim, cosine = linear(1), 0.2
    surrogate, weight = across(victim), victim.weight / victim.weight.norm()
    surrogate.weight.copy_(cosine * weight + math.sqrt(1 - cosine**2) * surrogate.weight / surrogate.weight.norm())
    attack = form(surrogate, **{**SMALL, "samples": 20, "norm_samples": 200})
    x, y = grey(2, (3, 8, 8))
    for q, (_, points, _, after) in enumerate(drive(attack, lambda p: victim(p).float(), x, y, budget=206)):
        offset = (points - x).flatten(1)
        if q == 1:
            torch.testing.assert_close(
                offset, -attack.sigma * math.sqrt(192) * surrogate.weight.flatten(1).expand(2, -1)
            )
        if q > 201:
            low, high = (float(optimal_weight(torch.tensor(cosine * c), 192, 20)) for c in (0.8, 1.25))
            assert (low <= after["weight"]).all()
            assert (after["weight"] <= high).all()
            along = (offset * after["prior"].flatten(1)).sum(1) / offset.norm(dim=1)
            torch.testing.assert_close(along, after["weight"].sqrt(), atol=1e-4, rtol=0)


def check_queries(form, network, x, y):
    """No two probes are alike, the prior is new in each iteration, and sums begin anew."""
    attack = form(SURROGATE, **SMALL)
    seen, priors = [], []
    for before, points, _, after in drive(attack, one_by_one(network), x[:2], y[:2], budget=40):
        seen += [points[0].numpy().tobytes()]
        for row in range(2):
            if after["position"][row] == 0:
                assert not after["direction"][row].any()
                assert after["squares"][row] == 0
                priors.append(after["prior"][row])
            assert before["position"][row] != 0 or torch.equal(points[row], before["point"][row])
    assert len(set(seen)) == 40
    assert len(priors) > 8
    assert all(not torch.equal(one, other) for i, one in enumerate(priors) for other in priors[:i])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "l2", "eps": 0.8, "step": 0.3, "samples": 6},
        {"targeted": True, "loss": "cross_entropy"},
    ],
    ids=str,
)
def test_each_query_is_the_references(network, clean, options):
    check_prgf_reference(PRGF(SURROGATE, **{**SMALL, **options}), network, *clean)


@pytest.mark.parametrize(("size", "samples"), others_slow([(50, 2), (50, 5), (3072, 50)], 0))
def test_the_weight_minimises_the_error_of_the_estimate(size, samples):
    # Theorem 1: the error is |g|^2 less the square of g'Cg over (1 - 1/q) g'C^2g + g'Cg / q.
    cosine = torch.cat([torch.linspace(-1, 1, 81), torch.linspace(0, 4, 41) / math.sqrt(size)]).double()
    known = optimal_weight(cosine, size, samples)
    assert ((known >= 0) & (known <= 1)).all()
    assert ((known > 0) & (known < 1)).any()

    def gain(weight):
        rest = (1 - weight) / (size - 1)
        a = cosine.square()
        first = weight * a + rest * (1 - a)
        second = weight.square() * a + rest.square() * (1 - a)
        return (first.square() / ((1 - 1 / samples) * second + first / samples)).nan_to_num(0.0)

    best = gain(known)
    for weight in torch.linspace(1e-6, 1, 4001, dtype=torch.float64).clamp_max(1):
        assert (gain(weight.expand_as(cosine)) <= best + 1e-12).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_true_gradient_is_followed_without_probes(norm):
    check_true_gradient(PRGF, norm)


def test_an_orthogonal_gradient_is_left_out():
    check_orthogonal_gradient(PRGF)


def test_the_weight_is_that_of_the_cosine():
    check_cosine(PRGF)


def test_queries_are_all_different_and_priors_new(network, clean):
    check_queries(PRGF, network, *clean)


def test_the_scale_of_the_logits_changes_nothing(network, clean):
    check_scale(PRGF(SURROGATE, **SMALL), network, clean[0][:2], clean[1][:2], budget=20)


def test_a_budget_too_small_for_the_ball_is_said():
    attack = PRGF(SURROGATE, eps=0.05)
    assert attack.budget_warning(119) is not None
    assert attack.budget_warning(120) is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"samples": 0}, "attack.samples must be at least 1, got 0"),
        ({"norm_samples": 0}, "attack.norm_samples must be at least 1, got 0"),
        ({"sigma": 0.0}, "attack.sigma must be a positive number, got 0.0"),
        ({"step": -1.0}, "attack.step must be a positive number, got -1.0"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        PRGF(SURROGATE, **options)


class HasNoPrior(PRGF):
    """Weight: lambda is always 0, which is RGF."""

    def _weight(self, state, known):
        return super()._weight(state, known) * 0


class WeighsWithoutRoots(PRGF):
    """Directions: lambda and 1 - lambda instead of their square roots."""

    def _directions(self, state):
        weight = state["weight"]
        state["weight"] = weight.square() / (weight.square() + (1 - weight).square())
        directions = super()._directions(state)
        state["weight"] = weight
        return directions


class LeavesThePriorInside(PRGF):
    """Directions: the random part is not orthogonal to v."""

    def _directions(self, state):
        directions, prior = super()._directions(state), state["prior"]
        random = rng.normal(state["seed"], 0, state["queries"], tuple(prior.shape[1:]))
        inside = (random * prior).flatten(1).sum(1) / random.flatten(1).norm(dim=1)
        guided = (state["position"] > 1 + self.norm_samples).float() * inside
        return directions + guided.view(-1, 1, 1, 1) * prior


class UnderestimatesTheNorm(PRGF):
    """Cosine: the norm of the gradient lacks the factor D."""

    def _weight(self, state, known):
        squares = state["squares"]
        state["squares"] = squares / state["x"][0].numel()
        weight = super()._weight(state, known)
        state["squares"] = squares
        return weight


class KeepsItsPrior(PRGF):
    """Prior: the surrogate's gradient at the image serves all iterations."""

    def on_surrogate(self, state, points):
        self.first = getattr(self, "first", None)
        if self.first is None:
            self.first = super().on_surrogate(state, points)
        loss, gradient = self.first
        return loss[: len(points)], gradient[: len(points)]


class ProbesUphill(PRGF):
    """Prior: v is the gradient of the loss itself."""

    def on_surrogate(self, state, points):
        loss, gradient = super().on_surrogate(state, points)
        return loss, -gradient


class NeverStops(PRGF):
    """Sums: they go on into the next iteration."""

    def _next(self, state, position, complete):
        squares, direction = state["squares"], state["direction"]
        super()._next(state, position, complete)
        state["squares"], state["direction"] = squares, direction


class RepeatsDraws(PRGF):
    """Draws: all queries use one."""

    def _directions(self, state):
        queries = state["queries"]
        state["queries"] = torch.zeros_like(queries)
        directions = super()._directions(state)
        state["queries"] = queries
        return directions


class ProbesShort(PRGF):
    """Length: probes do not grow with the image."""

    def _length(self, x):
        return self.sigma


CAUGHT = [
    (HasNoPrior, ["check_true_gradient", "check_cosine"]),
    (WeighsWithoutRoots, ["check_cosine"]),
    (LeavesThePriorInside, ["check_orthogonal_gradient", "check_cosine"]),
    (UnderestimatesTheNorm, ["check_cosine"]),
    (KeepsItsPrior, ["check_prgf_reference", "check_queries"]),
    (ProbesUphill, ["check_prgf_reference", "check_cosine"]),
    (NeverStops, ["check_queries"]),
    (RepeatsDraws, ["check_prgf_reference", "check_queries"]),
    (ProbesShort, ["check_prgf_reference", "check_orthogonal_gradient"]),
]


@pytest.mark.parametrize(("mutant", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, check, network, clean):
    arguments = {
        "check_prgf_reference": (mutant(SURROGATE, **SMALL), network, *clean),
        "check_queries": (mutant, network, *clean),
        "check_true_gradient": (mutant, "l2"),
    }
    with pytest.raises(AssertionError):
        globals()[check](*arguments.get(check, (mutant,)))

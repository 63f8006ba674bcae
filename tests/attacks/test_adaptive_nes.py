"""What is special to AdaptiveNES."""

import math

import pytest
import torch
from ascent_checks import check_linear, check_scale, check_standstill, grey
from attack_checks import caught
from harness import Linear, drive, noisy, one_by_one, start
from reference.adaptive_nes import adaptive_nes

from rfdlight.attacks import AdaptiveNES
from rfdlight.core import rng
from rfdlight.errors import UserError

SMALL = {"eps": 0.05, "pairs": 2}


def check_reference(attack, victim, x, y, budget=70, deviation=0.05):
    """Query by query, points, looks and iterates are the reference's."""
    seed = torch.tensor([3 + 2**40 * i for i in range(len(x))])
    target = (y + 1) % 5 if attack.targeted else torch.full_like(y, -1)
    ticks = list(drive(attack, noisy(one_by_one(victim), deviation), x, y, budget=budget, seed=seed, target=target))
    grid = attack.grid or min(x.shape[2:])
    options = {name: getattr(attack, name) for name in ("eps", "norm", "pairs", "step", "momentum", "loss")}
    options |= {"probes": (attack.shortest, attack.longest), "budget": budget}
    for i in range(len(x)):
        told, key = iter([logits[i] for _, _, logits, _ in ticks]), seed[i : i + 1]
        shape = (x.shape[1], grid, grid) if grid < min(x.shape[2:]) else tuple(x.shape[1:])

        def normal(k, key=key, shape=shape):
            return rng.normal(key, 0, torch.tensor([k]), shape)[0]

        history = adaptive_nes(
            lambda _, told=told: next(told), x[i], int(y[i]), int(target[i]), **options, normal=normal
        )
        assert len(history) == len(ticks)
        for q, (entry, (before, points, _, after)) in enumerate(zip(history, ticks, strict=True)):
            where = f"image {i}, query {q}"
            assert torch.allclose(points[i], entry["point"], rtol=0, atol=1e-5), where
            assert bool(attack.is_success_check(before)[i]) == entry["look"], where
            assert torch.allclose(attack.best(after)[i], entry["iterate"], rtol=0, atol=1e-5), where
    assert not torch.equal(attack.best(ticks[-1][3]), x)


def check_inside(attack, victim, x, y, budget=60):
    """Every query lies in the ball and in [0, 1]."""
    for _, points, _, after in drive(attack, noisy(one_by_one(victim), 0.1), x, y, budget=budget):
        assert attack.threat.contains(x, points).all()
        assert points.min() >= 0
        assert points.max() <= 1
        assert torch.equal(attack.threat.admit(x, attack.best(after)), attack.best(after))


def linear(slope, rows=40):
    """Grey images and a victim whose margin changes by N(0, slope^2) at a probe of length eps = 0.05."""
    x, y = grey(rows, (3, 8, 8))
    weight = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return Linear(weight * slope / 0.05 / weight.norm(), 0.0), x, y


def check_plan(attack):
    """Probe, pairs and step are those of the noise and of the signal, which are given."""
    noise = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0])
    signal = torch.tensor([1.0, 9.0, 1.0, 0.01, -0.5])
    x, y = grey(5, (3, 4, 4))
    state, _ = start(attack, x, y, torch.arange(5), 100)
    state |= {"noise": noise, "signal": signal}
    attack._adapt(state, torch.tensor([True, True, True, True, True]))
    for i in range(5):
        wanted = math.sqrt(0.5 * float(noise[i]) / float(signal[i])) if signal[i] > 0 else math.inf
        probe = min(max(wanted, attack.shortest), attack.longest)
        excess = 1 + 0.5 * float(noise[i]) / (max(float(signal[i]), 1e-30) * probe**2)
        pairs = min(round(attack.pairs * excess), 10 * attack.pairs)
        step = attack.step * min(1.0, max(0.25, math.sqrt(pairs / (attack.pairs * excess))))
        assert float(state["probe"][i]) == pytest.approx(probe, rel=1e-5)
        assert int(state["pairs"][i]) == pairs
        assert float(state["step"][i]) == pytest.approx(step, rel=1e-5)
    assert int(state["pairs"][0]) == attack.pairs
    assert int(state["pairs"][3]) == 10 * attack.pairs


def check_noise(attack, rows=200):
    """The noise is the variance of the answers at x, on average: five answers have a relative error of 0.71."""
    victim, x, y = linear(1.0, rows)
    *_, (_, _, _, after) = drive(attack, noisy(victim, 0.5), x, y, budget=8)
    assert abs(float(after["noise"].mean()) / 0.25 - 1) <= 5 * 0.71 / math.sqrt(rows)


def check_deterministic(attack, victim, x, y):
    """Where answers do not vary, x is asked twice, probes are the shortest, iterations as asked for."""
    for q, (_, points, _, after) in enumerate(drive(attack, one_by_one(victim), x, y, budget=40)):
        assert torch.equal(points, x) == (q < 2), f"query {q}"
        assert (after["probe"] == torch.tensor(attack.shortest)).all()
        assert (after["pairs"] == attack.pairs).all()
        assert (after["step"] == torch.tensor(attack.step)).all()


def check_signal(attack, rows=100, budget=300):
    """The signal is the variance of the loss at probes of length eps, without the noise: |z| of at most 5.

    At probes of 0.2 eps, which the ball does not cut off, the signal's share of a half difference is 0.36 of 0.86. So a
    pair's square has the relative deviation 2.4 sqrt(2), and `rows` images average 2 / 0.05 - 1 of the last pairs.
    """
    attack.shortest = attack.longest = 0.2
    attack.step = 0.001
    victim, x, y = linear(3.0, rows)
    *_, (_, _, _, after) = drive(attack, noisy(victim, 1.0), x, y, budget=budget)
    assert abs(float(after["signal"].mean()) / 9 - 1) <= 5 * 2.4 * math.sqrt(2 / (39 * rows))


CASES = [
    {},
    {"grid": 3, "loss": "cross_entropy"},
    {"targeted": True, "momentum": 0.0},
    {"norm": "l2", "eps": 1.0},
    {"norm": "l2", "eps": 1.0, "grid": 4},
]
NORMS = pytest.mark.parametrize("ball", [{}, {"norm": "l2", "eps": 0.5}], ids=["linf", "l2"])


@pytest.mark.parametrize("options", CASES, ids=str)
def test_each_query_is_the_references(network, clean, options):
    check_reference(AdaptiveNES(**{**SMALL, **options}), network, clean[0][:2], clean[1][:2])


def test_each_query_is_the_references_without_noise(network, clean):
    check_reference(AdaptiveNES(**SMALL), network, clean[0][:2], clean[1][:2], deviation=0.0)


@pytest.mark.slow
@NORMS
def test_every_query_lies_in_the_ball(network, clean, ball):
    check_inside(AdaptiveNES(**{**SMALL, **ball}), network, clean[0][:3], clean[1][:3])


def test_without_noise_nothing_is_adapted(network, clean):
    check_deterministic(AdaptiveNES(**SMALL), network, clean[0][:3], clean[1][:3])


def test_probes_pairs_and_steps_follow_from_the_noise():
    check_plan(AdaptiveNES(eps=0.05))
    check_noise(AdaptiveNES(eps=0.05))


def test_the_signal_is_that_of_the_theory():
    check_signal(AdaptiveNES(eps=0.05))


@NORMS
def test_equal_answers_leave_the_image_where_it_is(ball):
    check_standstill(AdaptiveNES(**{**SMALL, **ball}), 7)


@NORMS
def test_the_scale_of_the_logits_changes_nothing(network, clean, ball):
    check_scale(AdaptiveNES(**{**SMALL, **ball}), network, clean[0][:3], clean[1][:3], 30)


@pytest.mark.slow
def test_a_linear_victims_exact_minimum_is_approached_and_never_beaten():
    check_linear(AdaptiveNES(eps=0.05), 600, 0.75)


@pytest.mark.slow
def test_behind_noise_a_linear_victims_minimum_is_approached():
    victim, x, y = linear(1.0, 10)
    *_, (_, _, _, after) = drive(AdaptiveNES(eps=0.05), noisy(victim, 1.0), x, y, budget=1000)
    clean, least = victim(x)[:, 0], victim.least_margin(x, 0.05)
    taken = (clean - victim(AdaptiveNES(eps=0.05).best(after))[:, 0]) / (clean - least)
    assert float(taken.mean()) >= 0.3, taken


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pairs": 0}, "attack.pairs must be at least 1, got 0"),
        ({"grid": 0}, "attack.grid must be at least 1, got 0"),
        ({"step": -0.1}, "attack.step must be a positive number, got -0.1"),
        ({"momentum": 1.0}, r"attack.momentum must lie in \[0, 1\), got 1.0"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        AdaptiveNES(**options)


class Climbs(AdaptiveNES):
    """Sign: follows the gradient upwards."""

    def objective(self, state, logits):
        return -super().objective(state, logits)


class CountsTheNoise(AdaptiveNES):
    """Signal: the noise of a pair is left in."""

    def tell(self, state, points, answer):
        noise = state["noise"].clone()
        probing = state["phase"] == 2
        state["noise"] = torch.where(probing, 0.0, noise)
        super().tell(state, points, answer)
        state["noise"] = torch.where(probing, noise, state["noise"])


class MeasuresTwice(AdaptiveNES):
    """Noise: two answers are enough."""

    def tell(self, state, points, answer):
        measured = (state["phase"] == 0) & (state["queries"] == 1)
        super().tell(state, points, answer)
        state["phase"] = torch.where(measured, 1, state["phase"])


class LeavesTheBall(AdaptiveNES):
    """Size: probes are clipped to [0, 1] alone."""

    def ask(self, state):
        points = super().ask(state)
        probing = (state["phase"] == 1) | (state["phase"] == 2)
        side = torch.where(state["phase"] == 1, 1, -1).view(-1, 1, 1, 1)
        far = (state["point"] + 2 * side * self.eps * state["draw"]).clamp(0, 1)
        return torch.where(probing.view(-1, 1, 1, 1), far, points)


class ForgetsTheVelocity(AdaptiveNES):
    """Momentum: none."""

    def tell(self, state, points, answer):
        state["velocity"] = torch.zeros_like(state["velocity"])
        super().tell(state, points, answer)


class HidesTheLook(AdaptiveNES):
    """Budget: bills the look as a query that the attack uses."""

    def is_success_check(self, state):
        return torch.zeros_like(super().is_success_check(state))


class DrawsAgain(AdaptiveNES):
    """Reading: the second probe of a pair has a draw of its own."""

    def ask(self, state):
        drawn = state["drawn"]
        state["drawn"] = drawn + 1000 * (state["phase"] == 2)
        points = super().ask(state)
        state["drawn"] = drawn
        return points


class KeepsThePlan(AdaptiveNES):
    """Plan: probes, pairs and steps never change."""

    def _adapt(self, state, rows):
        pass


class IgnoresClipping(AdaptiveNES):
    """Reading: the direction is the draw, also where the ball cuts it off."""

    def ask(self, state):
        points = super().ask(state)
        draw = rng.normal(state["seed"], 0, state["drawn"], tuple(state["x"].shape[1:]))
        state["draw"] = state["probe"].view(-1, 1, 1, 1) * draw
        return points


CAUGHT = [
    (Climbs, {}, [check_reference, check_linear]),
    (CountsTheNoise, {}, [check_reference, check_signal]),
    (MeasuresTwice, {}, [check_reference]),
    (LeavesTheBall, {}, [check_reference, check_inside]),
    (ForgetsTheVelocity, {}, [check_reference]),
    (HidesTheLook, {}, [check_reference]),
    (DrawsAgain, {}, [check_reference]),
    (KeepsThePlan, {}, [check_reference, check_plan]),
    (IgnoresClipping, {}, [check_reference]),
]
VICTIM = {check_reference, check_inside}
MORE = {check_linear: (600, 0.5)}


@pytest.mark.parametrize(("mutant", "options", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, options, check, network, clean):
    attack = mutant(**{**SMALL, **options})
    with pytest.raises(AssertionError):
        check(attack, *((network, clean[0][:2], clean[1][:2]) if check in VICTIM else MORE.get(check, ())))

"""The checks of the attacks can fail: each attack has mutants in sign, size or schedule, and reading or budget."""

import math

import attack_checks
import pytest
import torch
from attack_checks import caught
from harness import Run, others_slow
from msgspec.structs import asdict

from rfdlight.attacks import RandomNoise, RayS, Square
from rfdlight.core import rng
from rfdlight.core.losses import margin
from rfdlight.core.tensors import per_row


class SquareClimbs(Square):
    """Sign: keeps what raises the margin."""

    def tell(self, state, points, answer):
        loss = margin(answer, state["y"])
        better = (loss > state["loss"]) | state["loss"].isinf()
        state["signs"] = torch.where(per_row(better, points), state["proposal"], state["signs"])
        state["loss"] = torch.where(better, loss, state["loss"])
        state["step"] = state["step"] + 1


class SquareLeavesTheBall(Square):
    """Size: steps of twice eps after the stripes."""

    def _point(self, x, signs):
        return torch.add(x, signs, alpha=2 * self.eps).clamp_(0, 1)


class SquareHalvesEarly(Square):
    """Schedule: each level starts one 10,000th too early."""

    def side(self, t, budget, height, width):
        length = budget if self.schedule_len is None else torch.full_like(budget, self.schedule_len)
        return super().side(t + (length / 10000).ceil().long(), budget, height, width)


class SquareGrowsBack(Square):
    """Schedule: beyond it the squares have their first size again, as in the published code."""

    def side(self, t, budget, height, width):
        length = budget if self.schedule_len is None else self.schedule_len
        return super().side(torch.where(t > length, 0, t), budget, height, width)


class SquareReadsTheWrongClass(Square):
    """Reading: the margin of the label's neighbour."""

    def tell(self, state, points, answer):
        super().tell(state, points, answer.roll(1, 1))


class SquareForgetsTheKept(Square):
    """Reading: keeps a proposal's loss, and not always its signs."""

    def tell(self, state, points, answer):
        before = state["signs"].clone()
        super().tell(state, points, answer)
        state["signs"] = torch.where(per_row(state["step"] % 3 == 0, points), before, state["signs"])


class SquareReachesTheEdge(Square):
    """Schedule: windows also cover the last row and column."""

    def _paint(self, state, side, moves):
        proposal = super()._paint(state, side, moves)
        return torch.where(per_row(state["step"] > 0, proposal), proposal.roll((1, 1), (2, 3)), proposal)


class RaysKeepsTheSign(RayS):
    """Sign: the block is not negated."""

    def ask(self, state):
        super().ask(state)
        state["trial"] = state["direction"].clone()
        step = per_row((state["reach"] / math.sqrt(state["x"][0].numel())).float(), state["x"])
        return (state["x"] + step * state["trial"]).clamp_(0, 1)


class RaysLeavesTheBall(RayS):
    """Size: submits the point at twice eps."""

    def best(self, state):
        return torch.add(state["x"], state["direction"], alpha=2 * self.eps).clamp_(0, 1)


class RaysForgetsTheRoot(RayS):
    """Size: a step of the radius, not of radius / sqrt(d)."""

    def ask(self, state):
        super().ask(state)
        return (state["x"] + per_row(state["reach"].float(), state["x"]) * state["trial"]).clamp_(0, 1)


class RaysReadsTheOpposite(RayS):
    """Reading: takes right for wrong."""

    def tell(self, state, points, answer):
        super().tell(state, points, torch.where(answer == state["y"], state["y"] + 1, state["y"]))


class RaysAsksTwice(RayS):
    """Budget: a bisection goes on to half the tolerance."""

    def tell(self, state, points, answer):
        wide = (state["high"] - state["low"]) > 1e-3
        last = (state["phase"] == self.BISECT) & wide & ((state["high"] - state["low"]) / 2 <= 1e-3)
        kept = {name: state[name].clone() for name in ("direction", "radius", "level", "block")}
        super().tell(state, points, answer)
        for name, value in kept.items():
            state[name] = torch.where(last.view(-1, *(1,) * (value.ndim - 1)), value, state[name])
        state["phase"] = torch.where(last, self.BISECT, state["phase"])


class NoiseHasOneSign(RandomNoise):
    """Sign: only +1."""

    def _point(self, state, number):
        return super()._point(state, number).maximum(state["x"] + self.eps).clamp(0, 1)


class NoiseForgetsTheRoot(RandomNoise):
    """Size: steps of eps in l2 too."""

    def _point(self, state, number):
        signs = rng.signs(state["seed"], 0, number, tuple(state["x"].shape[1:]))
        return (state["x"] + self.eps * signs).clamp_(0, 1)


class NoiseIsTooSmall(RandomNoise):
    """Size: inside the ball."""

    def _point(self, state, number):
        return state["x"] + 0.9 * (super()._point(state, number) - state["x"])


class NoiseRepeats(RandomNoise):
    """Budget: asks each point twice."""

    def ask(self, state):
        return self._point(state, state["step"] // 2)


class NoiseKeepsTheLast(RandomNoise):
    """Reading: submits the last point, whatever was answered."""

    def tell(self, state, points, answer):
        super().tell(state, points, answer)
        state["found"] = state["step"] - 1


VICTIM = {"check_square_reference": 60, "check_square_windows": 60, "check_square_loss": 60, "check_feasible": 60}
VICTIM |= {"check_rays_reference": 120, "check_rays_steps": 250, "check_noise_reference": 20}
"""The checks that take a victim, and the budgets."""

CAUGHT = [
    (SquareClimbs, {"p": 0.3}, ["check_square_loss", "check_square_reference"]),
    (SquareLeavesTheBall, {"p": 0.3}, ["check_feasible", "check_square_reference", "check_square_linear"]),
    (SquareHalvesEarly, {"p": 0.3}, ["check_square_schedule", "check_square_reference"]),
    (SquareGrowsBack, {"p": 0.3}, ["check_square_schedule"]),
    (SquareReadsTheWrongClass, {"p": 0.3}, ["check_square_loss", "check_square_reference", "check_square_linear"]),
    (SquareForgetsTheKept, {"p": 0.3}, ["check_square_loss", "check_square_reference"]),
    (SquareReachesTheEdge, {"p": 0.3}, ["check_square_windows", "check_square_reference"]),
    (RaysKeepsTheSign, {}, ["check_rays_reference", "check_rays_steps"]),
    (RaysLeavesTheBall, {}, ["check_feasible"]),
    (RaysForgetsTheRoot, {}, ["check_rays_reference", "check_rays_steps", "check_rays_linear"]),
    (RaysReadsTheOpposite, {}, ["check_rays_reference", "check_rays_steps"]),
    (RaysAsksTwice, {}, ["check_rays_reference", "check_rays_steps"]),
    (NoiseHasOneSign, {}, ["check_noise_points", "check_noise_reference"]),
    (NoiseForgetsTheRoot, {"norm": "l2"}, ["check_feasible", "check_noise_points", "check_noise_reference"]),
    (NoiseIsTooSmall, {}, ["check_noise_points", "check_noise_reference"]),
    (NoiseRepeats, {}, ["check_noise_points", "check_noise_reference"]),
    (NoiseKeepsTheLast, {}, ["check_noise_best", "check_noise_reference"]),
]


@pytest.mark.parametrize(("mutant", "options", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, options, check, network, clean):
    attack = mutant(eps=0.05, **options)
    victim = (network, clean[0][:3], clean[1][:3], VICTIM[check]) if check in VICTIM else ()
    with pytest.raises((AssertionError, StopIteration)):
        getattr(attack_checks, check)(attack, *victim)


@pytest.mark.parametrize("attack", [Square, RayS, RandomNoise])
def test_each_attack_has_at_least_three_mutants(attack):
    assert sum(issubclass(mutant, attack) for mutant, *_ in CAUGHT) >= 3


@pytest.mark.parametrize("mutant", others_slow([SquareLeavesTheBall, NoiseForgetsTheRoot], 0))
def test_the_engine_believes_no_point_outside_the_ball(mutant, network, clean):
    norm = "l2" if mutant is NoiseForgetsTheRoot else "linf"
    run = Run(network, mutant(eps=0.03, norm=norm), *clean, budget=40)
    for record in run.records:
        assert asdict(record)[norm] <= 0.03 + 1e-6
        assert record.success_query is None or record.verdict == "adversarial"

"""NES for victims that answer at random."""

import math
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.answer_noise import answers_vary, is_measured
from rfdlight.attacks.base import Attack, check_count, check_positive, check_side
from rfdlight.attacks.gradient_estimation import enlarged, unit
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.tensors import Columns, per_row
from rfdlight.errors import UserError

_MOST_PAIRS = 10  # of an iteration, in units of `pairs`
_SMALLEST_STEP = 0.25  # in units of `step`
_MEMORY = 0.05  # weight of a new pair in the running signal
_MEASURE, _PLUS, _MINUS, _LOOK = range(4)


class AdaptiveNES(Attack):
    """NES that measures the noise: score-based gradient estimation, in linf or l2.

    An iteration queries pairs of opposite Gaussian probes around the iterate, projected on the ball, adds their mean to
    a running sum with momentum, steps along the sum (l2) or its signs (linf), and queries the new iterate.

    Noise is the variance of the answers at x: of 2, or of 5 where these vary. Signal is the variance that the probes
    alone cause, a running mean of squared half differences less the noise. Both choose the next iteration. Its
    probes have the length at which the signal is as large as the noise, from 0.5 to 1 eps; behind noise, the first
    iteration has 1 eps. It has pairs / share pairs, at most 10 times as many, with share the signal's share of the
    variance of a half difference. Where these do not suffice, its step is shorter, by the square root of the pairs that
    are missing, at least a quarter. Without noise these are probes of 0.5 eps, `pairs` and `step`.

    Source: Ilyas, Engstrom, Athalye, Lin, Black-box Adversarial Attacks with Limited Queries and Information, ICML
    2018, with momentum as in their code; none for the choice by the noise.
    Deviations: probes are projected on the ball, and a slope counts along the difference of the two points that were
    queried; lengths are in units of eps; the margin by default; the query at the new iterate is billed.

    Args:
        grid: Cells per side of the image on which a draw is constant, from 1 to the shorter side; by default a draw
            per pixel value.
        pairs: Pairs of probes per iteration without noise, >= 1.
        step: Length of a step without noise in units of eps, per pixel value in linf and in l2 norm in l2, > 0.
        momentum: Share of the earlier directions in the running sum, in [0, 1).
        loss: "margin" or "cross_entropy".
    """

    access = "score"
    norms = ("linf", "l2")
    has_targeted_form = True
    shortest, longest = 0.5, 1.0  # probes, in units of eps

    def __init__(
        self,
        grid: int | None = None,
        pairs: int = 2,
        step: float = 0.2,
        momentum: float = 0.9,
        loss: Loss = "margin",
        **ball: Any,
    ) -> None:
        super().__init__(**ball)
        check_count(grid=grid, pairs=pairs)
        check_positive(step=step)
        if not 0 <= momentum < 1:
            raise UserError(f"attack.momentum must lie in [0, 1), got {momentum}")
        self.grid = grid
        self.pairs = pairs
        self.step = step
        self.momentum = momentum
        self.loss = loss

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape of a draw."""
        if self.grid is None or self.grid == min(x.shape[2:]):
            return tuple(x.shape[1:])
        return x.shape[1], self.grid, self.grid

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        check_side(x, grid=self.grid)
        none, zero = torch.zeros_like(y, dtype=torch.float32), torch.zeros_like(y)
        return {
            "point": x.clone(),
            "velocity": torch.zeros_like(x),  # running sum of the iterations' directions
            "direction": torch.zeros_like(x),  # of this iteration, so far
            "first": none,  # loss at the first probe of the pair, before the first pair the mean of all answers
            "noise": none.clone(),  # variance of an answer
            "signal": none.clone(),  # variance that probes of length eps alone cause, recent pairs first
            "probe": none + self.shortest,  # length of this iteration's probes, in units of eps
            "step": none + self.step,
            "pairs": zero + self.pairs,  # of this iteration
            "pair": zero.clone(),  # finished ones of this iteration
            "drawn": zero.clone(),  # finished ones in all
            "queries": zero.clone(),
            "phase": zero.clone(),
        }

    def ask(self, state: Columns) -> Tensor:
        x, phase, point = state["x"], state["phase"], state["point"]
        # Per value, so that a probe of N(0, 1) draws has the norm eps.
        unit_length = self.threat.eps / (math.sqrt(x[0].numel()) if self.norm == "l2" else 1)
        probe = enlarged(rng.normal(state["seed"], 0, state["drawn"], self._shape(x)), x)
        probe = per_row(state["probe"] * unit_length, x) * probe
        plus, minus = (self.threat.project(x, point + side * probe) for side in (1, -1))
        state["draw"] = (plus - minus) / (2 * unit_length)
        current = torch.where(per_row(phase == _PLUS, x), plus, point)
        return torch.where(per_row(phase == _MINUS, x), minus, current)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss, phase, queries = self.objective(state, answer), state["phase"], state["queries"]
        measured, second = phase == _MEASURE, phase == _MINUS
        change = loss - state["first"]
        mean = state["first"] + change / (queries + 1)
        # Of the first answers, from that of one fewer.
        noise = (state["noise"] * (queries - 1) + change.square() * queries / (queries + 1)) / queries.clamp_min(1)
        state["noise"] = torch.where(measured & (queries > 0), noise, state["noise"])
        state["first"] = torch.where(measured, mean, loss)

        half, length = torch.where(second, change / 2, 0.0), state["probe"].square()
        weight = (1 / (state["drawn"] + 1)).clamp_min(_MEMORY) * second
        signal = (half.square() - state["noise"] / 2) / length
        state["signal"] = state["signal"] + weight * (signal - state["signal"])
        state["direction"] = state["direction"] + per_row(half / length, points) * state["draw"]
        state["pair"], state["drawn"] = state["pair"] + second, state["drawn"] + second

        complete = second & (state["pair"] == state["pairs"])
        if complete.any():
            self._move(state, complete)
            self._adapt(state, complete)
        ready = measured & is_measured(queries + 1, state["noise"], mean)
        # How much the probes change the loss is not known yet.
        random = ready & answers_vary(state["noise"], mean)
        state["probe"] = torch.where(random, self.longest, state["probe"])
        following = torch.where(ready | second | (phase == _LOOK), _PLUS, torch.where(measured, _MEASURE, _MINUS))
        state["phase"] = torch.where(complete, _LOOK, following)
        state["queries"] = queries + 1

    def _move(self, state: Columns, rows: Tensor) -> None:
        """Take the steps of rows whose iterations are complete."""
        chosen = per_row(rows, state["x"])
        velocity = self.momentum * state["velocity"] + state["direction"] / per_row(state["pairs"], state["x"])
        along = velocity.sign() if self.norm == "linf" else unit(velocity)
        moved = state["point"] + self.threat.eps * per_row(state["step"], along) * along
        state["point"] = torch.where(chosen, self.threat.project(state["x"], moved), state["point"])
        state["velocity"] = torch.where(chosen, velocity, state["velocity"])
        state["direction"] = state["direction"].masked_fill(chosen, 0.0)
        state["pair"] = state["pair"].masked_fill(rows, 0)

    def _adapt(self, state: Columns, rows: Tensor) -> None:
        """Choose probes, pairs and step of the next iteration."""
        noise, signal = state["noise"] / 2, state["signal"].clamp_min(1e-30)
        probe = (noise / signal).sqrt().clamp(self.shortest, self.longest)
        excess = 1 + noise / (signal * probe.square())
        pairs = (self.pairs * excess).round().clamp_max(_MOST_PAIRS * self.pairs)
        step = self.step * (pairs / (self.pairs * excess)).sqrt().clamp(_SMALLEST_STEP, 1.0)
        for name, value in (("probe", probe), ("pairs", pairs.long()), ("step", step)):
            state[name] = torch.where(rows, value, state[name])

    def best(self, state: Columns) -> Tensor:
        return state["point"]

    def is_success_check(self, state: Columns) -> Tensor:
        return state["phase"] == _LOOK

"""The Sign-OPT attack."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.attacks.options import check_count
from rfdlight.core import norms, rng
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row

_STARTS, _SAMPLES = range(2)
"""The streams of random numbers."""

_ALPHA, _BETA, _LEAST_BETA = 0.2, 1e-3, 1e-8
"""The first step, the first size of the samples, and the size below which the authors stop."""
_LEAST_ALPHA = {"l2": 1e-4, "linf": 1e-6}
"""The steps below which the samples become smaller."""
_START_GAP = 1e-5
"""Where the bisection of a start ends."""
_TURNS = 15
"""Steps at most that a line search tries by doubling, and again by quartering."""
_SHRINKS = 100
"""Radii at most that are tried before bisection goes down to 0."""
_FARTHEST = 20.0
"""The radius beyond which the published code gives a direction up."""


class SignOPT(Attack):
    """Descends the distance to the decision boundary over directions, by the signs of its changes, reading labels.

    g(theta) is the radius at which the answer along theta becomes wrong. Of several random directions the one of
    least g is kept. An iteration asks, for random u, whether x + g (theta + beta u) is wrong, each direction
    normalised; the mean of the u, negated where it is, estimates the gradient of g. A line search then doubles the
    step along it while g falls, or quarters it until g falls.

    Source: Cheng, Singh, Chen, Chen, Liu and Hsieh, Sign-OPT: A Query-Efficient Hard-label Adversarial Attack,
    ICLR 2020, algorithm 1; all lengths are of the attack's norm. Deviations: a step is given up at its first
    answer if that is right at the radius to be beaten; a start is first asked at that radius too; a radius is
    shrunk 100 times at most; when the samples have become as small as 1e-8 they start anew at 0.001, where the
    authors stop; starts go on until one is wrong; queries are clipped to [0, 1]. Under the paper's query counting the
    first two and the clipping are as in the published code.

    Args:
        starting_points: Random directions to choose from; a targeted attack has one, towards its start.
        samples: Queries per gradient.
        ball: `eps`, `norm` ("linf" or "l2") and `targeted`, see `Attack`.

    State:
        phase: (rows,) int64: starting, checking a start at the best radius, sampling, trying a step, shrinking or
            growing its radius, or bisecting.
        direction: Like `x`, theta, of norm 1.
        radius: (rows,) float64, the least g known: that of theta, or after the step `better`; infinite before any.
        gathered: Like `x`, the sum of the signed u.
        started, sampled, drawn: (rows,) int64, starts, samples of this iteration, samples of all.
        attempt: (rows,) int64, -1 while starting, then steps tried; quartering begins at 15.
        alpha, beta, better: (rows,) float64, the step, the size of the samples, the best step of the line search or 0.
        low, high: (rows,) float64, the radii known to be right and wrong.
        shrinks: (rows,) int64.
        unbilled: (rows,) int64, answers that the published code forgets to bill.

    Queries:
        `samples` per iteration and its line search: per step 1, or if it is wrong one per percent that g falls and
        log2(0.01 g / (beta / 500)). Each start takes 1, or about 20 more where it is nearer than the last one.

    Raises:
        UserError: If an option is out of range.
    """

    access = "decision"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    has_targeted_form = True
    needs_starting_point = True

    _START, _CHECK, _SAMPLE, _TRY, _SHRINK, _GROW, _BISECT = range(7)

    def __init__(self, starting_points: int = 100, samples: int = 200, **ball: Any) -> None:
        super().__init__(**ball)
        check_count(starting_points=starting_points, samples=samples)
        self.starting_points = starting_points
        self.samples = samples

    def budget_warning(self, budget: int) -> str | None:
        starting_points = 1 if self.targeted else self.starting_points
        queries = budget // self.repeats
        if starting_points + self.samples < queries:
            return None
        return f"{starting_points} starts and {self.samples} samples leave nothing of {queries} queries; lower attack.samples"

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        zero, real = torch.zeros_like(y), torch.zeros_like(y, dtype=torch.float64)
        first = rng.normal(seed, _STARTS, zero, tuple(x.shape[1:])).to(x.dtype)
        return {
            "phase": torch.full_like(y, self._START),
            "direction": first / per_row(norms.norm(first, self.norm), first),
            "radius": torch.full_like(real, torch.inf),
            "gathered": torch.zeros_like(x),
            "started": zero,
            "sampled": zero.clone(),
            "drawn": zero.clone(),
            "attempt": torch.full_like(y, -1),
            "alpha": torch.full_like(real, _ALPHA),
            "beta": torch.full_like(real, _BETA),
            "better": real,
            "low": real.clone(),
            "high": real.clone(),
            "shrinks": zero.clone(),
            "unbilled": zero.clone(),
        }

    def ask(self, state: Columns) -> Tensor:
        x, phase, radius = state["x"], state["phase"], state["radius"]
        move = self._stepped(state, state["alpha"])
        starting, samples = state["attempt"] < 0, phase == self._SAMPLE
        if samples.any():
            u = rng.normal(state["seed"], _SAMPLES, state["drawn"], tuple(x.shape[1:])).to(x.dtype)
            state["u"] = u / per_row(norms.norm(u, self.norm), u)
            around = state["direction"] + per_row(state["beta"].to(x.dtype), x) * state["u"]
            move = torch.where(per_row(samples, x), around, move)
        if starting.any():
            move = torch.where(per_row(starting, x), self._start(state), move)
        length = norms.norm(move, self.norm).clamp_min(1e-12)
        state["theta"] = move / per_row(length, x)

        first = length.double() if self.query_counting == "paper" else length.double().minimum(radius)
        reach = torch.where(phase == self._START, first, radius)
        reach = torch.where(phase == self._SHRINK, 0.99 * state["high"], reach)
        reach = torch.where(phase == self._GROW, 1.01 * state["high"], reach)
        state["reach"] = torch.where(phase == self._BISECT, (state["low"] + state["high"]) / 2, reach)
        return self._point(x, state["theta"], state["reach"])

    def _start(self, state: Columns) -> Tensor:
        """Return the directions that rows start along, like `x`."""
        x = state["x"]
        if self.targeted:
            return state["start"] - x
        return rng.normal(state["seed"], _STARTS, state["started"], tuple(x.shape[1:])).to(x.dtype)

    def _stepped(self, state: Columns, alpha: Tensor) -> Tensor:
        """Return theta less alpha gradients, like `x`; not normalised."""
        direction = state["direction"]
        return direction - per_row((alpha / self.samples).to(direction.dtype), direction) * state["gathered"]

    def _point(self, x: Tensor, theta: Tensor, reach: Tensor) -> Tensor:
        point = x + per_row(reach.to(x.dtype), x) * theta
        return point.clamp_(0, 1) if self.query_counting == "exact" else point

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        hit, phase, reach = self.is_adversarial(state, answer), state["phase"], state["reach"]
        starting_points, checks, samples, tries, shrinks, grows, bisects = (phase == which for which in range(7))
        paper = self.query_counting == "paper"
        if samples.any():
            signed = torch.where(per_row(hit, points), -state["u"], state["u"])
            state["gathered"] = state["gathered"] + torch.where(per_row(samples, points), signed, 0.0)
        state["drawn"], state["sampled"] = state["drawn"] + samples, state["sampled"] + samples

        # Only the published code looks beyond the best radius.
        doubtful = starting_points & hit & (reach > state["radius"])
        high = torch.where(hit & (starting_points | checks | tries | shrinks | grows | bisects), reach, state["high"])
        high = torch.where((tries | grows) & ~hit, reach, high)
        low = torch.where((tries | grows | shrinks | bisects) & ~hit, reach, state["low"])
        state["high"], state["low"] = high, torch.where((starting_points | checks | tries) & hit, 0.0, low)
        state["shrinks"] = torch.where(tries, 0, state["shrinks"] + shrinks)
        worn = shrinks & hit & (state["shrinks"] >= _SHRINKS)

        gap = torch.where(state["attempt"] < 0, _START_GAP, state["beta"] / 500)
        found = bisects & (high - state["low"] <= gap)
        dropped = (
            ((starting_points | checks) & ~hit) | (tries & ~hit & (not paper)) | (grows & ~hit & (reach > _FARTHEST))
        )
        state["unbilled"] = state["unbilled"] + (checks & hit) + tries
        bisecting = (hit & ((starting_points & ~doubtful) | checks | grows)) | (shrinks & ~hit) | worn

        phase = torch.where(doubtful, self._CHECK, torch.where(bisecting, self._BISECT, phase))
        phase = torch.where(tries & hit, self._SHRINK, torch.where(tries & ~hit, self._GROW, phase))
        sampled = samples & (state["sampled"] >= self.samples)
        state["attempt"] = torch.where(sampled, 0, state["attempt"])
        state["phase"] = torch.where(sampled, self._TRY, phase)
        if (found | dropped).any():
            self._conclude(state, found, dropped)

    def _conclude(self, state: Columns, found: Tensor, dropped: Tensor) -> None:
        """Use the radii of directions that were `found` or, being too far, `dropped`."""
        starting, x = state["attempt"] < 0, state["x"]
        nearer = found & (state["high"] < state["radius"])
        state["radius"] = torch.where(nearer, state["high"], state["radius"])
        adopted = per_row(nearer & starting, x)
        state["direction"] = torch.where(adopted, state["theta"], state["direction"])

        ended = found | dropped
        begins = ended & starting
        state["started"] = state["started"] + begins
        enough = state["started"] >= (1 if self.targeted else self.starting_points)
        ready = begins & enough & state["radius"].isfinite()

        stepped, doubling = ended & ~starting, state["attempt"] < _TURNS
        alpha, attempt = state["alpha"], state["attempt"] + stepped
        state["better"] = torch.where(nearer & stepped, alpha, state["better"])
        turns = stepped & doubling & (state["better"] == 0)
        attempt = torch.where(turns, _TURNS, attempt)
        over = stepped & torch.where(doubling, ~nearer & ~turns, nearer)
        over |= stepped & ((attempt == _TURNS) & ~turns | (attempt >= 2 * _TURNS))
        alpha = torch.where(stepped & doubling, 2 * alpha, alpha)
        alpha = torch.where((turns | (stepped & ~doubling)) & ~over, alpha / 4, alpha)
        state["alpha"], state["attempt"] = alpha, attempt
        phase = torch.where(begins, self._START, torch.where(stepped, self._TRY, state["phase"]))
        state["phase"] = torch.where(ready | over, self._SAMPLE, phase)
        state["attempt"] = torch.where(ready, 0, attempt)
        self._renew(state, over, ready | over)

    def _renew(self, state: Columns, over: Tensor, fresh: Tensor) -> None:
        """Take the step that line searches found, and clear what an iteration gathers."""
        if over.any():
            state["direction"] = torch.where(per_row(over, state["x"]), self._theta(state), state["direction"])
            small = over & (state["alpha"] < _LEAST_ALPHA[self.norm])
            beta = torch.where(small, 0.1 * state["beta"], state["beta"])
            state["beta"] = torch.where(beta < _LEAST_BETA, _BETA, beta)
            state["alpha"] = torch.where(small, 1.0, state["alpha"])
        state["better"] = torch.where(fresh, 0.0, state["better"])
        state["sampled"] = torch.where(fresh, 0, state["sampled"])
        state["gathered"] = torch.where(per_row(fresh, state["x"]), 0.0, state["gathered"])

    def _theta(self, state: Columns) -> Tensor:
        """Return the directions of the radii known, like `x`."""
        move = self._stepped(state, state["better"])
        theta = move / per_row(norms.norm(move, self.norm).clamp_min(1e-12), move)
        return torch.where(per_row(state["better"] > 0, move), theta, state["direction"])

    def best(self, state: Columns) -> Tensor:
        reach = torch.where(state["radius"].isfinite(), state["radius"], self.threat.eps)
        return self.threat.admit(state["x"], self._point(state["x"], self._theta(state), reach))

    def reports_success(self, state: Columns) -> Tensor:
        return state["radius"] <= self.threat.eps

    def paper_billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return evaluated - self.repeats * state["unbilled"]

    def paper_ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        # The published code looks at the budget between iterations, and ends once it is exceeded.
        between = (state["phase"] == self._START) | ((state["phase"] == self._SAMPLE) & (state["sampled"] == 0))
        return between & (self.paper_billed(state, evaluated) > state["budget"])

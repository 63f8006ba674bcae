"""Base class of decision-based attacks that descend the distance to the decision boundary over directions."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import check_count
from rfdlight.attacks.decision_based import PhasedAttack, Phases, halve, middle
from rfdlight.core import norms, rng
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, may_hold, per_row

STARTING = -1  # value of the column `attempt`
_STARTS, _SAMPLES = range(2)  # streams of random numbers
_ALPHA = 0.2  # the first step
_LEAST_BETA = 1e-8  # size of the samples below which the authors stop
_LEAST_ALPHA = {"l2": 1e-4, "linf": 1e-6}  # steps below which the samples become smaller
_ATTEMPTS = 15  # most steps that a line search tries by doubling, and again by quartering
_SHRINKS = 100  # most radii that are tried before bisection goes down to 0


class DirectionDescent(PhasedAttack):
    """Base class of Sign-OPT and OPT: starts, samples around theta, and line searches along an estimated gradient.

    g(theta) is the smallest misclassified radius along theta. Radii and directions have lengths in l2, in linf too: the
    linf length of a random direction depends on one value, and a descent with it is slower.
    """

    norms = ("linf", "l2")
    has_targeted_form = True
    needs_starting_point = True

    shrink = 0.9  # ratio of falling radii that are tried before a bisection
    grow = 1.01  # and of rising ones
    beta = 0.01  # the first size of the samples
    gap = 0.01  # gap at which a bisection ends, in shares of beta
    start_gap = 0.01  # gap at which the bisection of a start ends

    START, CHECK, SAMPLE, TRY, SHRINK, GROW, BISECT = range(7)

    def __init__(self, starting_points: int, samples: int, **ball: Any) -> None:
        super().__init__(**ball)
        check_count(starting_points=starting_points, samples=samples)
        self.starting_points = starting_points
        self.samples = samples

    @property
    def lengths(self) -> Norm:
        """The norm of all lengths."""
        return "l2"

    @property
    def _starts(self) -> int:
        return 1 if self.targeted else self.starting_points

    def budget_warning(self, budget: int) -> str | None:
        queries = budget // self.eot
        if self._starts + self.samples < queries:
            return None
        return (
            f"{self._starts} starting points and {self.samples} samples leave nothing of {queries} queries; "
            "lower attack.samples"
        )

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        real = torch.zeros_like(y, dtype=torch.float64)
        first = rng.normal(seed, _STARTS, torch.zeros_like(y), tuple(x.shape[1:])).to(x.dtype)
        return {
            "direction": first / per_row(norms.norm(first, self.lengths), first),  # theta
            "radius": torch.full_like(real, torch.inf),  # the least g known: of theta, or of the step `better`
            "phase": torch.zeros_like(y),
            "started": torch.zeros_like(y),  # starts that are finished
            "sampled": torch.zeros_like(y),  # samples of this iteration
            "drawn": torch.zeros_like(y),  # samples of all iterations
            "gathered": torch.zeros_like(x),  # the sum of the signed u
            "attempt": torch.full_like(y, STARTING),  # or the number of steps tried; quartering begins at 15
            "alpha": torch.full_like(real, _ALPHA),  # the step
            "beta": torch.full_like(real, self.beta),  # the size of the samples
            "better": real,  # the best step of this line search, or 0
            "low": real.clone(),  # the radii known to be right
            "high": real.clone(),  # and misclassified
            "shrinks": torch.zeros_like(y),  # radii shrunk
        }

    def phases(self) -> Phases:
        return (
            (self._at_start, self._after_start),
            (self._tried, self._after_check),
            (self._sample, self._after_sample),
            (self._tried, self._after_try),
            (self._tried, self._after_shrinking),
            (self._tried, self._after_growing),
            (self._tried, self._after_bisection),
        )

    def best(self, state: Columns) -> Tensor:
        return self.threat.admit(state["x"], self.nearest(state))

    def nearest(self, state: Columns) -> Tensor:
        """Return the points at the least radii, like `x`; before the first one, at the radius eps."""
        theta, radius = self._nearest(state)
        return self.point(state["x"], theta, torch.where(radius.isfinite(), radius, self.threat.eps))

    def _nearest(self, state: Columns) -> tuple[Tensor, Tensor]:
        """Return the directions of the least radii, like `x`, and these radii."""
        return self._theta(state), state["radius"]

    def point(self, x: Tensor, theta: Tensor, reach: Tensor) -> Tensor:
        """Return the point at a radius along a direction, like `x`."""
        return (x + per_row(reach.to(x.dtype), x) * theta).clamp_(0, 1)

    def start_radius(self, state: Columns, length: Tensor) -> Tensor:
        """Return the radius at which starts are first queried, (rows,) float64; `length` is that of the direction."""
        return length.double().minimum(state["radius"])

    def _normalised(self, move: Tensor) -> tuple[Tensor, Tensor]:
        """Return moves divided by their norm, and the norm."""
        length = norms.norm(move, self.lengths).clamp_min(1e-12)
        return move / per_row(length, move), length

    def _start(self, state: Columns) -> Tensor:
        """Return the moves towards the starts, like `x`."""
        x = state["x"]
        if self.targeted:
            return state["start"] - x
        return rng.normal(state["seed"], _STARTS, state["started"], tuple(x.shape[1:])).to(x.dtype)

    def _stepped(self, state: Columns, alpha: Tensor) -> Tensor:
        """Return theta less alpha gradients, like `x`; not normalised."""
        direction = state["direction"]
        return direction - per_row((alpha / self.samples).to(direction.dtype), direction) * state["gathered"]

    def _reach(self, state: Columns) -> Tensor:
        """Return the radius that is tried along the direction of a start or of a step, (rows,) float64."""
        phase, high = state["phase"], state["high"]
        reach = torch.where(
            phase == self.SHRINK, self.shrink * high, torch.where(phase == self.GROW, self.grow * high, middle(state))
        )
        return torch.where((phase == self.CHECK) | (phase == self.TRY), state["radius"], reach)

    def _searched(self, state: Columns) -> Tensor:
        """Return the directions along which radii are tried, like `x`; not normalised."""
        starting, move = state["attempt"] == STARTING, self._stepped(state, state["alpha"])
        return torch.where(per_row(starting, move), self._start(state), move) if starting.any() else move

    def _tried(self, state: Columns) -> Tensor:
        return self.point(state["x"], self._normalised(self._searched(state))[0], self._reach(state))

    def _at_start(self, state: Columns) -> Tensor:
        theta, state["length"] = self._normalised(self._start(state))
        return self.point(state["x"], theta, self.start_radius(state, state["length"]))

    def _after_start(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        reach = self.start_radius(state, state["length"])
        state["high"] = torch.where(adversarial, reach, state["high"])
        # Only the published code queries a start beyond the best radius.
        beyond = adversarial & (reach > state["radius"])
        state["phase"] = state["phase"].masked_fill(beyond, self.CHECK)
        self._bisect_from_zero(state, adversarial & ~beyond)
        self._end_start(state, ~adversarial)

    def _after_check(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        state["high"] = torch.where(adversarial, state["radius"], state["high"])
        self._bisect_from_zero(state, adversarial)
        self._end_start(state, ~adversarial)

    def _bisect_from_zero(self, state: Columns, rows: Tensor) -> None:
        state["low"] = state["low"].masked_fill(rows, 0.0)
        state["phase"] = state["phase"].masked_fill(rows, self.BISECT)

    def _u(self, state: Columns) -> Tensor:
        """Return the random direction of the next sample."""
        x = state["x"]
        u = rng.normal(state["seed"], _SAMPLES, state["drawn"], tuple(x.shape[1:])).to(x.dtype)
        return u / per_row(norms.norm(u, self.lengths), u)

    def _sample(self, state: Columns) -> Tensor:
        state["u"] = self._u(state)
        return self.point(state["x"], self._normalised(self._around(state, state["u"]))[0], state["radius"])

    @staticmethod
    def _around(state: Columns, u: Tensor) -> Tensor:
        """Return theta + beta u, like `x`; not normalised."""
        return state["direction"] + per_row(state["beta"].to(u.dtype), u) * u

    @abstractmethod
    def _after_sample(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        """Use the answers at the best radius along theta + beta u; after the last sample go on to the line search."""

    def _end_sample(self, state: Columns, rows: Tensor) -> None:
        """Go on from samples that are finished: to the next one, or to the line search."""
        state["drawn"], state["sampled"] = state["drawn"] + rows, state["sampled"] + rows
        complete = rows & (state["sampled"] >= self.samples)
        state["attempt"] = state["attempt"].masked_fill(complete, 0)
        state["phase"] = torch.where(complete, self.TRY, state["phase"].masked_fill(rows, self.SAMPLE))

    def _after_try(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        state["high"], state["shrinks"] = state["radius"].clone(), torch.zeros_like(state["shrinks"])
        state["low"] = torch.where(adversarial, 0.0, state["radius"])
        state["phase"] = torch.full_like(state["phase"], self.SHRINK)
        self.reject_step(state, ~adversarial)

    def reject_step(self, state: Columns, rows: Tensor) -> None:
        """End the trial of steps whose points at the best radius are right."""
        self._end_step(state, rows, torch.zeros_like(rows))

    def _after_shrinking(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        reach = self._reach(state)
        state["shrinks"] = state["shrinks"] + 1
        state["high"] = torch.where(adversarial, reach, state["high"])
        state["low"] = torch.where(adversarial, state["low"], reach)
        bracketed = ~adversarial | (state["shrinks"] >= _SHRINKS)
        state["phase"] = state["phase"].masked_fill(bracketed, self.BISECT)

    def _after_growing(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        state["high"] = reach = self._reach(state)
        state["low"] = torch.where(adversarial, state["low"], reach)
        state["phase"] = state["phase"].masked_fill(adversarial, self.BISECT)
        self._abandon(state, ~adversarial & (reach > self.farthest(state)))

    def farthest(self, state: Columns) -> Tensor:
        """Return the radii beyond which directions are given up, (rows,) float64."""
        return 2 * state["radius"]

    def _abandon(self, state: Columns, rows: Tensor) -> None:
        """End the search along directions without a boundary."""
        self._end_step(state, rows, torch.zeros_like(rows))

    def _after_bisection(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        starting, stepping = state["attempt"] == STARTING, state["attempt"] >= 0
        found = halve(state, adversarial) <= torch.where(starting, self.start_gap, self.gap * state["beta"])
        nearer = found & (starting | stepping) & (state["high"] < state["radius"])
        state["radius"] = torch.where(nearer, state["high"], state["radius"])
        adopted = nearer & starting
        if adopted.any():
            theta = self._normalised(self._start(state))[0]
            state["direction"] = torch.where(per_row(adopted, theta), theta, state["direction"])
        self._end_start(state, found & starting)
        self._end_step(state, found & stepping, nearer)

    def _end_start(self, state: Columns, rows: Tensor) -> None:
        """Go on from starts that are finished: to the next start, or to the first gradient."""
        state["started"] = state["started"] + rows
        ready = rows & (state["started"] >= self._starts) & state["radius"].isfinite()
        state["phase"] = torch.where(ready, self.SAMPLE, state["phase"].masked_fill(rows, self.START))
        state["attempt"] = state["attempt"].masked_fill(ready, 0)
        if may_hold(ready):
            self._clear_gradient(state, ready)

    def _end_step(self, state: Columns, rows: Tensor, nearer: Tensor) -> None:
        """Go on from steps that are finished and found a nearer boundary or not: to the next step or gradient."""
        alpha, attempt, doubling = state["alpha"], state["attempt"] + rows, state["attempt"] < _ATTEMPTS
        state["better"] = torch.where(nearer & rows, alpha, state["better"])
        turns = rows & doubling & (state["better"] == 0)
        attempt = attempt.masked_fill(turns, _ATTEMPTS)
        over = rows & torch.where(doubling, ~nearer & ~turns, nearer)
        over |= rows & ((attempt == _ATTEMPTS) & ~turns | (attempt >= 2 * _ATTEMPTS))
        alpha = torch.where(rows & doubling, 2 * alpha, alpha)
        state["alpha"] = torch.where((turns | (rows & ~doubling)) & ~over, alpha / 4, alpha)
        state["attempt"] = attempt
        state["phase"] = torch.where(over, self.SAMPLE, state["phase"].masked_fill(rows, self.TRY))
        if over.any():
            self._take_step(state, over)
            self._clear_gradient(state, over)

    def _take_step(self, state: Columns, rows: Tensor) -> None:
        """Move theta by the best step of the line search, and make small samples smaller."""
        state["direction"] = torch.where(per_row(rows, state["x"]), self._theta(state), state["direction"])
        small = rows & (state["alpha"] < _LEAST_ALPHA[self.lengths])
        beta = torch.where(small, 0.1 * state["beta"], state["beta"])
        state["beta"] = torch.where(beta < _LEAST_BETA, self.beta, beta)
        state["alpha"] = torch.where(small, 1.0, state["alpha"])

    @staticmethod
    def _clear_gradient(state: Columns, rows: Tensor) -> None:
        for name in ("better", "sampled", "gathered"):
            state[name] = state[name].masked_fill(per_row(rows, state[name]), 0)

    def _theta(self, state: Columns) -> Tensor:
        """Return the directions of the least radii, like `x`."""
        move = self._stepped(state, state["better"])
        return torch.where(per_row(state["better"] > 0, move), self._normalised(move)[0], state["direction"])

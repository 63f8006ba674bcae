"""The OPT attack."""

from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.direction_descent import DirectionDescent
from rfdlight.core.tensors import Columns, per_row

_SAMPLING = -2  # value of the column `attempt`


class OPT(DirectionDescent):
    """OPT attack: decision-based descent of the distance to the decision boundary over directions, in linf or l2.

    g(theta) is the smallest misclassified radius along theta; the best of several random directions comes first. An
    iteration finds g(theta + beta u) for a few random u by steps of 10 % down or 1 % up from g and bisection; the mean
    of (g(theta + beta u) - g(theta)) / beta times u estimates the gradient of g. A line search doubles the step while g
    falls, or quarters it until g falls. The nearest sample is taken instead if it is nearer. Queries: per sample 2, one
    more per percent that g rises, and log2(g / beta) if it rises, log2(10 g / beta) if it falls; starts and steps as in
    Sign-OPT.

    Source: Cheng, Le, Chen, Zhang, Yi and Hsieh, Query-Efficient Hard-label Black-box Attack: An Optimization-based
    Approach, ICLR 2019, algorithms 1 and 2, with the published code's line search.
    Deviations: those of Sign-OPT in lengths, starts, the size of samples and the search of radii; a sample without a
    boundary up to twice the radius counts for nothing.

    Args:
        starting_points: Random directions to choose from; a targeted attack has one, towards its starting point.
        samples: Random directions u per gradient.
    """

    def __init__(self, starting_points: int = 20, samples: int = 10, **ball: Any) -> None:
        super().__init__(starting_points, samples, **ball)

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        columns = super().init(x, y, seed)
        nearest = torch.full_like(columns["radius"], torch.inf)  # the least g of this iteration's samples
        return {**columns, "sample_radius": nearest, "sample": torch.zeros_like(y)}  # and the number of its u

    def _searched(self, state: Columns) -> Tensor:
        sampling, move = state["attempt"] == _SAMPLING, super()._searched(state)
        if not sampling.any():
            return move
        return torch.where(per_row(sampling, move), self._around(state, self._u(state)), move)

    def _after_sample(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        state["attempt"] = torch.full_like(state["attempt"], _SAMPLING)
        state["high"], state["shrinks"] = state["radius"].clone(), torch.zeros_like(state["shrinks"])
        state["low"] = torch.where(adversarial, 0.0, state["radius"])
        state["phase"] = torch.where(adversarial, self.SHRINK, self.GROW)

    def _abandon(self, state: Columns, rows: Tensor) -> None:
        self._end_sample(state, rows)

    def _after_bisection(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        sampling = state["attempt"] == _SAMPLING
        super()._after_bisection(state, points, adversarial)
        found = sampling & (state["high"] - state["low"] <= self.gap * state["beta"])
        if found.any():
            self._gather(state, found)

    def _gather(self, state: Columns, rows: Tensor) -> None:
        """Add the finished samples of `rows` to the gradient."""
        rise = ((state["high"] - state["radius"]) / state["beta"]).masked_fill(~rows, 0.0)
        u = self._u(state)
        state["gathered"] = state["gathered"] + per_row(rise.to(u.dtype), u) * u
        nearer = rows & (state["high"] < state["sample_radius"])
        state["sample_radius"] = torch.where(nearer, state["high"], state["sample_radius"])
        state["sample"] = torch.where(nearer, state["drawn"], state["sample"])
        self._end_sample(state, rows)

    def _nearest(self, state: Columns) -> tuple[Tensor, Tensor]:
        theta, nearer = self._theta(state), state["sample_radius"] < state["radius"]
        sample = self._normalised(self._around(state, self._u({**state, "drawn": state["sample"]})))[0]
        return torch.where(per_row(nearer, theta), sample, theta), state["radius"].minimum(state["sample_radius"])

    def _take_step(self, state: Columns, rows: Tensor) -> None:
        theta, radius = self._nearest(state)
        super()._take_step(state, rows)
        state["direction"] = torch.where(per_row(rows, theta), theta, state["direction"])
        state["radius"] = torch.where(rows, radius, state["radius"])
        state["sample_radius"] = state["sample_radius"].masked_fill(rows, torch.inf)

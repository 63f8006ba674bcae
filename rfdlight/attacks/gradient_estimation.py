"""Steps along estimated and true gradients, and the base classes of attacks that estimate the gradient from scores."""

from abc import abstractmethod
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core import norms
from rfdlight.core.tensors import Columns, indices, may_hold, per_row, replace

_PAPER_SIDE = 224  # of the paper's images, in pixels


def by_size(sigma: float, x: Tensor) -> float:
    """Return the probe size for images like `x` where it is `sigma` at the paper's size; it grows with the side."""
    return sigma * min(min(x.shape[2:]) / _PAPER_SIDE, 1.0)


def unit(direction: Tensor) -> Tensor:
    """Return each row divided by its l2 norm; rows of zeros stay zero."""
    return direction / per_row(norms.norm(direction, "l2").clamp_min(1e-30), direction)


def enlarged(coarse: Tensor, like: Tensor) -> Tensor:
    """Return square grids of cells at the size of `like`: each pixel has the value of its cell."""
    if coarse.shape == like.shape:
        return coarse
    side, (height, width) = coarse.shape[2], like.shape[2:]
    cell = _cells(side, height, width, coarse.device).expand(*coarse.shape[:2], -1)
    return coarse.flatten(2).gather(2, cell).view(*coarse.shape[:2], height, width)


@lru_cache
def _cells(side: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return the cell of each pixel in a square grid, (H * W,) int64."""
    with torch.inference_mode(False):
        down, across = (indices(size, device) * side // size for size in (height, width))
        return (down[:, None] * side + across).flatten()


def short_of_the_ball(steps: int, step: float, eps: float) -> str | None:
    """Return one line if `steps` steps of length `step` cannot cross the radius `eps`, else None."""
    if steps * step >= eps * (1 - 1e-9):
        return None
    return (
        f"this budget allows {steps} steps of {step:g}, so the attack stays within {steps * step:g} of the image "
        f"although eps is {eps:g}; raise model.budget or attack.step"
    )


class GradientEstimation(Attack):
    """Base class of score-based attacks that estimate a direction from probes and then step along it.

    A cycle of queries is one iteration. By default its last query is a success check at the new iterate.
    """

    access = "score"
    norms = ("linf", "l2")
    signs_in_l2 = False  # whether steps are along signs in l2 too
    paper_constants: ClassVar[bool] = False  # whether options that are not given are the paper's at every image size

    step: float

    @property
    @abstractmethod
    def cycle(self) -> int:
        """Queries per iteration, with the success check."""

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        first = torch.zeros_like(y, dtype=torch.float32)  # the loss that later losses of the cycle are compared with
        return {"point": x.clone(), "first": first, "queries": torch.zeros_like(y)}

    def position(self, state: Columns) -> Tensor:
        """Return each row's position in its cycle, (rows,), from 0."""
        return state["queries"] % self.cycle

    def in_range(self, probe: Tensor) -> Tensor:
        return probe.clamp_(0, 1)

    def step_along(self, state: Columns, rows: Tensor, direction: Tensor) -> None:
        """Move the iterates of `rows` by one step."""
        along = direction.sign() if self.norm == "linf" or self.signs_in_l2 else unit(direction)
        moved = self.projected(state["x"], state["point"] + self.step_length(state) * along)
        replace(state["point"], rows, moved)

    def step_length(self, state: Columns) -> Tensor | float:
        """Return the length of the next step, one for all rows or (rows, 1, 1, 1)."""
        return self.step

    def projected(self, x: Tensor, point: Tensor) -> Tensor:
        return self.threat.project(x, point)

    def best(self, state: Columns) -> Tensor:
        return state["point"]

    def is_success_check(self, state: Columns) -> Tensor:
        return self.position(state) == self.cycle - 1

    def steps_within(self, budget: int) -> int:
        """Return the number of steps that a budget allows; the last step needs no success check."""
        return (budget // self.eot + 1) // self.cycle

    def budget_warning(self, budget: int) -> str | None:
        return short_of_the_ball(self.steps_within(budget), self.step, self.threat.eps)


class SummedProbes(GradientEstimation):
    """Base class of gradient estimation that sums probes, weighted by their losses, over one iteration."""

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {"direction": torch.zeros_like(x), **super().init(x, y, seed)}

    def collect(self, state: Columns, weight: Tensor, complete: Tensor) -> None:
        """Add the weighted draws to the directions, and take the steps of rows whose directions are complete."""
        state["direction"] += per_row(weight, state["draw"]) * state["draw"]
        state["queries"] += 1
        if may_hold(complete):
            self.step_along(state, complete, state["direction"])
            state["direction"].masked_fill_(per_row(complete, state["direction"]), 0.0)

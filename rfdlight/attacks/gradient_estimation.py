"""Steps along estimated and true gradients, and the base class of attacks that estimate the gradient from scores."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core import norms
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row


def unit(direction: Tensor) -> Tensor:
    """Return each row divided by its l2 norm; rows of zeros stay zero."""
    return direction / per_row(norms.norm(direction, "l2").clamp_min(1e-30), direction)


def short_of_the_ball(steps: int, step: float, eps: float) -> str | None:
    """Return one line if `steps` steps of length `step` cannot cross the radius `eps`, else None."""
    if steps * step >= eps * (1 - 1e-9):
        return None
    plural = "" if steps == 1 else "s"
    return (
        f"this budget allows {steps} step{plural} of {step:g}, so the attack stays within {steps * step:g} of the "
        f"image although eps is {eps:g}; raise model.budget or attack.step"
    )


class GradientEstimation(Attack):
    """Base class of score-based attacks that estimate a direction from probes and then step along it.

    A cycle of queries is one iteration. By default its last query is a success check at the new iterate.

    State:
        point: like x, the iterate.
        first: (rows,) float32, the loss that later losses of the cycle are compared with.
        queries: (rows,) int64, queries so far.
    """

    access = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    step: float

    @property
    @abstractmethod
    def cycle(self) -> int:
        """Queries per iteration, with the success check."""

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        first = torch.zeros_like(y, dtype=torch.float32)
        return {"point": x.clone(), "first": first, "queries": torch.zeros_like(y)}

    def position(self, state: Columns) -> Tensor:
        """Return each row's position in its cycle, (rows,), from 0."""
        return state["queries"] % self.cycle

    def in_range(self, x: Tensor, probe: Tensor) -> Tensor:
        """Return the probes, clipped to [0, 1]."""
        return probe.clamp_(0, 1)

    def move(self, state: Columns, rows: Tensor, change: Tensor) -> None:
        """Move the iterates of `rows`, then project them on the ball around x and clip them to [0, 1]."""
        moved = self.projected(state["x"], state["point"] + change)
        state["point"] = torch.where(per_row(rows, moved), moved, state["point"])

    def projected(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the iterates, projected on the ball and clipped to [0, 1]."""
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

"""What attacks that step along an estimated direction share: the step itself, and how far it can lead."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.core import norms
from rfdlight.core.tensors import Columns, per_row
from rfdlight.core.threat import ThreatModel


def unit(direction: Tensor) -> Tensor:
    """Return each row divided by its l2 norm; a row of zeros stays so."""
    return direction / per_row(norms.norm(direction, "l2").clamp_min(1e-30), direction)


def advance(threat: ThreatModel, x: Tensor, point: Tensor, change: Tensor, clip: bool) -> Tensor:
    """Return the points moved by `change`, then projected on the ball around `x`, then clipped.

    Args:
        threat: The ball.
        x: (rows, C, H, W), the clean images.
        point: Like `x`, the iterates.
        change: Like `x`.
        clip: Whether to clip to [0, 1], which the paper's code does not do.
    """
    moved = point + change
    return threat.project(x, moved) if clip else x + norms.project(moved - x, threat.norm, threat.eps)


def step_where(ends: Tensor, threat: ThreatModel, state: Columns, change: Tensor, clip: bool) -> None:
    """Move the `point` of rows whose `direction` is complete, and forget the direction.

    Args:
        ends: Which rows they are, (rows, 1, 1, 1) bool.
        threat: The ball.
        state: With the columns `x`, `point` and `direction`, alike.
        change: Like `x`.
        clip: See `advance`.
    """
    moved = advance(threat, state["x"], state["point"], change, clip)
    state["point"] = torch.where(ends, moved, state["point"])
    state["direction"] = state["direction"].masked_fill(ends, 0.0)


def short_of_the_ball(steps: int, step: float, eps: float) -> str | None:
    """Return one line if `steps` steps of length `step` cannot cross the radius `eps`, else None."""
    if steps * step >= eps * (1 - 1e-9):
        return None
    plural = "" if steps == 1 else "s"
    return (
        f"this budget allows {steps} step{plural} of {step:g}, so the attack stays within {steps * step:g} of the "
        f"image although eps is {eps:g}; raise model.budget or attack.step"
    )

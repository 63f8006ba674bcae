"""What attacks that step along an estimated direction share: the step itself, and how far it can lead."""

from __future__ import annotations

import math

from torch import Tensor

from rfdlight import norms
from rfdlight.errors import UserError
from rfdlight.tensors import per_row
from rfdlight.threat import ThreatModel


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


def short_of_the_ball(steps: int, step: float, eps: float) -> str | None:
    """Return one line if `steps` steps of length `step` cannot cross the radius `eps`, else None."""
    if steps * step >= eps * (1 - 1e-9):
        return None
    plural = "" if steps == 1 else "s"
    return (
        f"this budget allows {steps} step{plural} of {step:g}, so the attack stays within {steps * step:g} of the "
        f"image although eps is {eps:g}; raise model.budget or attack.step"
    )


def check_positive(**options: float | None) -> None:
    """Refuse options that are given but are not positive numbers.

    Raises:
        UserError: If one is not.
    """
    for name, value in options.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"attack.{name} must be a positive number, got {value}")


def check_count(**options: int | None) -> None:
    """Refuse options that are given but are less than 1.

    Raises:
        UserError: If one is.
    """
    for name, value in options.items():
        if value is not None and value < 1:
            raise UserError(f"attack.{name} must be at least 1, got {value}")

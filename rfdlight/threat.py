"""What the attacker may do to an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rfdlight import norms
from rfdlight.errors import UserError
from rfdlight.tensors import per_row

_SLACK = {"linf": 1e-6, "l2": 1e-4}
"""How far rounding may carry a point out of its ball: absolute for linf, relative to eps for l2."""


def check_eps(eps: float, option: str) -> None:
    """Refuse a radius that is not a positive number.

    Raises:
        UserError: Names `option`.
    """
    if not (eps > 0 and math.isfinite(eps)):
        raise UserError(f"{option} must be a positive number of pixel units, got {eps}")


@dataclass(frozen=True)
class ThreatModel:
    """A ball around the clean image, cut off at the pixel range [0, 1].

    Args:
        norm: "linf" or "l2".
        eps: Radius in pixel units, > 0.

    Raises:
        UserError: If `eps` is not a positive number.
    """

    norm: norms.Norm
    eps: float

    def __post_init__(self) -> None:
        check_eps(self.eps, "attack.eps")

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return how far each point is from its clean image, (rows,)."""
        return norms.norm(point - x, self.norm)

    @property
    def reach(self) -> float:
        """How far from its clean image a point of the ball may lie, with rounding."""
        return self.eps + _SLACK[self.norm] * (1 if self.norm == "linf" else self.eps)

    def contains(self, x: Tensor, point: Tensor) -> Tensor:
        """Say which points lie in the ball, up to rounding, (rows,) bool."""
        return self.distance(x, point) <= self.reach

    def admit(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the points, those outside of the ball or of [0, 1] moved into both."""
        inside = self.contains(x, point) & ((point >= 0) & (point <= 1)).flatten(1).all(1)
        return torch.where(per_row(inside, point), point, self.project(x, point))

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the points moved into the ball, then into [0, 1]."""
        return (x + norms.project(point - x, self.norm, self.eps)).clamp(0, 1)

"""Threat model: the ball around an image that an attacker may search."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rfdlight.core import norms
from rfdlight.core.balls import Norm, check_eps, reach
from rfdlight.core.tensors import per_row


@dataclass(frozen=True)
class ThreatModel:
    """A ball around the clean image, cut off at the pixel range [0, 1].

    Args:
        norm: "linf" or "l2".
        eps: Radius in pixel units, > 0, in linf < 1.
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        check_eps(self.eps, self.norm, "attack.eps")

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return how far each point is from its clean image, (rows,)."""
        return norms.norm(point - x, self.norm)

    def contains(self, x: Tensor, point: Tensor) -> Tensor:
        """Return which points lie in the ball, up to rounding, (rows,) bool."""
        return self.distance(x, point) <= reach(self.norm, self.eps)

    def admit(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the points, those outside of the ball or of [0, 1] moved into both."""
        inside = self.contains(x, point) & ((point >= 0) & (point <= 1)).flatten(1).all(1)
        return torch.where(per_row(inside, point), point, self.project(x, point))

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the points moved into the ball, then into [0, 1]."""
        return norms.project(point - x, self.norm, self.eps).add_(x).clamp_(0, 1)

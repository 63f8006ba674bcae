"""Threat model: the ball around an image that an attacker may search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from rfdlight.core import norms
from rfdlight.core.tensors import per_row
from rfdlight.errors import UserError

_SLACK = {"linf": 1e-6, "l2": 1e-4}
"""How far rounding may carry a point out of its ball: absolute for linf, relative to eps for l2."""


def check_eps(eps: float, norm: norms.Norm, option: str, shape: Sequence[int] | None = None) -> None:
    """Raise a UserError that names `option` for a radius that is not positive, or whose ball holds every image.

    The shape of an image, (C, H, W), bounds an l2 radius by the diagonal of [0, 1]^(C*H*W).
    """
    if not (isinstance(eps, Real) and eps > 0 and math.isfinite(eps)):
        raise UserError(f"{option} must be a positive number of pixel units, got {eps}")
    most = 1.0 if norm == "linf" else math.inf if shape is None else math.sqrt(math.prod(shape))
    if eps >= most:
        raise UserError(
            f"{option} must be below {most:.4g} in {norm}, since pixels lie in [0, 1] and a larger ball holds every "
            f"image, got {eps:g}; a radius on the scale of 255 is written as {eps:g}/255"
        )


def reach(norm: norms.Norm, eps: float) -> float:
    """Return how far from its clean image a point of a ball may lie, with rounding."""
    return eps + _SLACK[norm] * (1 if norm == "linf" else eps)


@dataclass(frozen=True)
class ThreatModel:
    """A ball around the clean image, cut off at the pixel range [0, 1].

    Args:
        norm: "linf" or "l2".
        eps: Radius in pixel units, > 0, in linf < 1.
    """

    norm: norms.Norm
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
        return (x + norms.project(point - x, self.norm, self.eps)).clamp(0, 1)

"""Balls around images: their norms, the range of their radius, and how far rounding carries a point out of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Literal

from rfdlight.errors import UserError

Norm = Literal["linf", "l2"]

_SLACK = {"linf": 1e-6, "l2": 1e-4}
"""How far rounding may carry a point out of its ball: absolute for linf, relative to eps for l2."""


def check_eps(eps: float, norm: Norm, option: str, shape: Sequence[int] | None = None) -> None:
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


def reach(norm: Norm, eps: float) -> float:
    """Return how far from its clean image a point of a ball may lie, with rounding."""
    return eps + _SLACK[norm] * (1 if norm == "linf" else eps)

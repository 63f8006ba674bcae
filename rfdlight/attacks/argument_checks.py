"""Checks of numeric arguments that attacks share."""

from __future__ import annotations

import math

from rfdlight.errors import UserError


def check_positive(**options: float | None) -> None:
    """Raise a UserError for an option that is neither None nor a positive finite number."""
    for name, value in options.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"attack.{name} must be a positive number, got {value}")


def check_count(**options: int | None) -> None:
    """Raise a UserError for an option that is neither None nor at least 1."""
    for name, value in options.items():
        if value is not None and value < 1:
            raise UserError(f"attack.{name} must be at least 1, got {value}")

"""Checks of options that attacks share."""

from __future__ import annotations

import math

from rfdlight.errors import UserError


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

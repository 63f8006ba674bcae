"""What the values of a run's files may be, which somebody else may have written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Kind = Callable[[Any], bool]

_MOST = 2**53
"""No count of a run comes near; whole numbers up to here are also exact as float64."""


def is_count(value: Any) -> bool:
    """Return whether this is a whole number, at least 0 and not absurd."""
    return type(value) is int and 0 <= value < _MOST


def is_positive_count(value: Any) -> bool:
    """Return whether this is a whole number, at least 1 and not absurd."""
    return is_count(value) and value > 0


def is_number(value: Any) -> bool:
    """Return whether this is a finite number."""
    return (type(value) is int and abs(value) < _MOST) or (type(value) is float and math.isfinite(value))


def is_flag(value: Any) -> bool:
    """Return whether this is true or false."""
    return isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Return whether this is text."""
    return isinstance(value, str)


def or_none(kind: Kind) -> Kind:
    """Return the kind of what may also be null."""
    return lambda value: value is None or kind(value)


def wrong_field(found: Mapping[str, Any], kinds: Mapping[str, Kind]) -> str | None:
    """Return the first field that is not what it must be, None if all are; one that is missing counts as null."""
    return next((name for name, kind in kinds.items() if not kind(found.get(name))), None)

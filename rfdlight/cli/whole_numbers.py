"""Whole numbers that tensors can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfdlight.errors import UserError

_BITS = 63


def refuse_huge(given: Mapping[str, Any], setting: str = "") -> None:
    """Refuse whole numbers outside of int64, which no tensor and no random generator holds.

    Args:
        given: Settings by name, at any depth.
        setting: What stands before their names on a command line.

    Raises:
        UserError: Names the setting.
    """
    for name, value in given.items():
        path = setting if name in ("init_args", "dict_kwargs") else f"{setting}.{name}".lstrip(".")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                refuse_huge(item, path)
            elif isinstance(item, int) and not -(2**_BITS) <= item < 2**_BITS:
                raise UserError(f"{path} must be a whole number from -2^{_BITS} to 2^{_BITS} - 1, got {item}")

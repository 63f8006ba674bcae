"""Logits in the output of a classifier: their position in it, and their shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from rfdlight.errors import UserError

Key = str | int
"""Name or position of the logits in an output that holds more."""


def check_logits(output: Any, rows: int) -> Tensor:
    """Return an output that is (rows, classes) floating point; raise a UserError if it is anything else."""
    if isinstance(output, Tensor) and output.ndim == 2 and len(output) == rows and output.is_floating_point():
        return output
    raise UserError(
        f"the victim must return logits of shape ({rows}, classes) for {rows} images, got {form_of(output)}"
    )


def as_logits(output: Any, rows: int, classes: int) -> Tensor | None:
    """Return a tensor as logits, (rows, classes) floating point; None if it holds no such logits.

    Dimensions of size 1 may be missing or left over, as where a network squeezes its output for one image.
    """
    if not isinstance(output, Tensor) or output.is_meta or not output.is_floating_point():
        return None
    if [size for size in output.shape if size != 1] != [size for size in (rows, classes) if size != 1]:
        return None
    return output.reshape(rows, classes)


def logits_key(output: Any, rows: int, classes: int) -> Key | None:
    """Return the key of the logits in a tuple, a mapping or an object; None if there are none.

    Of several candidates it is "logits", else the first: auxiliary logits come after.
    """
    found = [key for key, value in parts_of(output).items() if as_logits(value, rows, classes) is not None]
    return "logits" if "logits" in found else next(iter(found), None)


def part(output: Any, key: Key | None) -> Any:
    """Return the part of an output under a key, None if there is none; without a key, the output itself."""
    return output if key is None else parts_of(output).get(key)


def form_of(output: Any) -> str:
    """Return the types and shapes of an output, such as "a tuple of float32 of shape (2, 3), NoneType"."""
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} of shape {tuple(output.shape)}"
    parts = [
        form_of(value) if isinstance(value, Tensor) else type(value).__name__ for value in parts_of(output).values()
    ]
    kind = type(output).__name__
    return f"a {kind} of {', '.join(parts[:4])}" if parts else kind


def parts_of(output: Any) -> dict[Key, Any]:
    """Return the values in a container or an object, by name or position; none for a tensor."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, tuple | list):
        return dict(enumerate(output))
    if isinstance(output, Tensor | type):
        return {}
    if is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    return dict(getattr(output, "__dict__", {}))

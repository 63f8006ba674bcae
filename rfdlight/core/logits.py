"""Logits: what counts as the answer of a classifier, and where in a larger answer they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from rfdlight.errors import UserError

Key = str | int
"""The name, or the position, of the logits in an answer that holds more."""


def check_logits(output: Any, rows: int) -> Tensor:
    """Return an output that is (rows, classes) floating point as it is.

    Raises:
        UserError: If it is anything else.
    """
    if isinstance(output, Tensor) and output.ndim == 2 and len(output) == rows and output.is_floating_point():
        return output
    raise UserError(
        f"the victim must answer {rows} images with logits of shape ({rows}, classes), got {described(output)}"
    )


def as_logits(output: Any, rows: int, classes: int) -> Tensor | None:
    """Return a tensor as logits, (rows, classes) floating point and dense; None if it holds no such logits.

    Dimensions of size 1 may be missing or left over, as where a network squeezes its answer to one image.

    Example:
        >>> as_logits(torch.zeros(3), rows=1, classes=3).shape
        torch.Size([1, 3])
    """
    if not isinstance(output, Tensor) or output.is_meta:
        return None
    if [size for size in output.shape if size != 1] != [size for size in (rows, classes) if size != 1]:
        return None
    if output.is_quantized:
        output = output.dequantize()
    elif output.layout is not torch.strided:
        output = output.to_dense()
    return output.reshape(rows, classes) if output.is_floating_point() else None


def logits_key(output: Any, rows: int, classes: int) -> Key | None:
    """Return where the logits stand in a tuple, a mapping or an object; None if nowhere.

    Of several places "logits" is taken, else the first: auxiliary logits come after.

    Example:
        >>> logits_key({"loss": torch.zeros(()), "logits": torch.zeros(2, 3)}, rows=2, classes=3)
        'logits'
    """
    found = [key for key, value in _parts(output).items() if as_logits(value, rows, classes) is not None]
    return "logits" if "logits" in found else next(iter(found), None)


def part(output: Any, key: Key | None) -> Any:
    """Return what stands at a place in an output, None if nothing does; without a key, the output itself."""
    return output if key is None else _parts(output).get(key)


def described(output: Any) -> str:
    """Return an output in words: types and shapes.

    Example:
        >>> described((torch.zeros(2, 3), None))
        'a tuple of float32 of shape (2, 3), NoneType'
    """
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} of shape {tuple(output.shape)}"
    parts = list(_parts(output).values())
    kind = type(output).__name__
    if not parts:
        return kind
    named = [described(value) if isinstance(value, Tensor) else type(value).__name__ for value in parts[:4]]
    return f"a {kind} of {', '.join(named)}"


def _parts(output: Any) -> dict[Key, Any]:
    """Return what a container or an object holds, by name or position; nothing for a tensor."""
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

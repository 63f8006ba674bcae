"""Row helpers: a state is a flat dictionary of tensors whose first dimension is the row."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from rfdlight.core.switch import Switch

Columns = dict[str, Tensor]
"""Every value has the same first dimension; a row is one image under attack."""


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (rows,) so that it broadcasts over the other dimensions of `like`."""
    return values.view(-1, *(1,) * (like.ndim - 1))


@lru_cache(maxsize=64)
def indices(count: int, device: torch.device) -> Tensor:
    """Return 0, 1, ..., count - 1 on a device, (count,) int64, which nobody may change: it is made once."""
    with torch.inference_mode(False):
        return torch.arange(count, device=device)


@lru_cache(maxsize=64)
def halved_blocks(size: int, levels: int, device: torch.device) -> Tensor:
    """Return the length of the blocks of `size` values and their number, by level, (2, levels) int64, made once.

    The length is size / 2^level, rounded up.
    """
    with torch.inference_mode(False):
        most = 2 ** indices(levels, device)
        length = (size + most - 1) // most
        return torch.stack([length, most.minimum((size + length - 1) // length)])


def positions(mask: Tensor, count: int) -> Tensor:
    """Return the positions of the `count` true values of a mask, (count,) int64, without a wait for the device."""
    return torch.nonzero_static(mask, size=count)[:, 0]


free_reads = Switch()
"""Whether `may_hold` reads masks on the CPU. It changes no result, and is off where a GPU's operators are counted."""


def may_hold(mask: Tensor) -> bool:
    """Return False only if a mask holds nowhere, so that work may be skipped.

    On a GPU it is always True, since the wait for the device costs more than the work.
    """
    return not (free_reads.on and mask.device.type == "cpu") or bool(mask.any())


def replace(column: Tensor, mask: Tensor, values: Tensor) -> None:
    """Overwrite the rows of a column, (rows, ...), where `mask`, (rows,) bool, by those of `values`, in place.

    On the CPU only these rows are read and written; on a GPU all are, since their number would have to be waited for.
    """
    if free_reads.on and mask.device.type == "cpu":
        chosen = mask.nonzero()[:, 0]
        column.index_copy_(0, chosen, values.index_select(0, chosen))
    else:
        torch.where(per_row(mask, column), values, column, out=column)


def negated(signs: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Return signs, (rows, ...) int8, those from `start` to before `stop`, (rows,) int64, of the flat row negated.

    It multiplies by two rows of a table, which is faster than to compare the number of each value.
    """
    size = signs[0].numel()
    steps = _steps(size, signs.device)
    factors = steps.index_select(0, size - start).mul_(steps.index_select(0, (size - stop).clamp_min_(0)))
    return factors.view_as(signs).mul_(signs)


@lru_cache(maxsize=8)
def _steps(size: int, device: torch.device) -> Tensor:
    """Return a view, (size + 1, size) int8, whose row `size - k` has k times -1 and then +1; it is made once."""
    with torch.inference_mode(False):
        ones = torch.ones(size, dtype=torch.int8, device=device)
        return torch.cat([-ones, ones]).unfold(0, size, 1)


def add(column: Tensor, rows: slice | Tensor, amount: int | Tensor) -> None:
    """Add to some rows of a column, each given once."""
    if isinstance(rows, slice):
        column[rows].add_(amount)
    else:
        column[rows] = column[rows] + amount


def take(columns: Columns, rows: slice | Tensor) -> Columns:
    """Return the rows of every column: views where `rows` is a slice, copies where it is indices, (rows,) int64."""
    if isinstance(rows, slice):
        return {name: column[rows] for name, column in columns.items()}
    return {name: column.index_select(0, rows) for name, column in columns.items()}  # faster than column[rows]


def put(columns: Columns, rows: slice | Tensor, values: Columns) -> None:
    """Write `values` into the rows of the columns that they name; a view into its own column costs nothing."""
    for name, column in columns.items():
        value = values.get(name)
        if value is None:
            continue
        if isinstance(rows, slice):
            target = column[rows]
            if target.data_ptr() != value.data_ptr() or target.stride() != value.stride():
                target.copy_(value)
        else:
            column[rows] = value.to(column.dtype)

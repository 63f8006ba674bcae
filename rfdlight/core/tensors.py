"""Row helpers: a state is a flat dictionary of tensors whose first dimension is the row."""

from __future__ import annotations

from torch import Tensor

Columns = dict[str, Tensor]
"""Every value has the same first dimension; a row is one image under attack."""


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (rows,) so that it broadcasts over the other dimensions of `like`."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def take(columns: Columns, rows: slice | Tensor) -> Columns:
    """Return the rows of every column: views where `rows` is a slice, copies where it is indices."""
    return {name: column[rows] for name, column in columns.items()}


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

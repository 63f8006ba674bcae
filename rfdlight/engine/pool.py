"""The images that are in work."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.core.tensors import Columns


class Pool:
    """Keeps the columns of up to `pool_size` images, the occupied ones without gaps at the front.

    Args:
        pool_size: Images at a time.
    """

    def __init__(self, pool_size: int) -> None:
        self.pool_size = pool_size
        self.ids: list[str] = []
        self.columns: Columns = {}
        self._next = 0

    def shrink(self, pool_size: int) -> None:
        """Take fewer images at a time; only before the first ones come."""
        if self.columns:
            raise ValueError("the pool holds images already")
        self.pool_size = min(self.pool_size, pool_size)

    def clear(self) -> None:
        """Remove all images."""
        self.ids = []
        self._next = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def free(self) -> int:
        """How many more images fit."""
        return self.pool_size - len(self)

    def admit(self, ids: list[str], columns: Columns) -> None:
        """Add images; the first ones fix names, dtypes and shapes of the columns."""
        start, stop = len(self), len(self) + len(ids)
        if not self.columns:
            self.columns = {
                name: torch.zeros((self.pool_size, *value.shape[1:]), dtype=value.dtype, device=value.device)
                for name, value in columns.items()
            }
        for name, column in self.columns.items():
            column[start:stop] = columns[name]
        self.ids += ids

    def occupied(self, name: str) -> Tensor:
        """Return a view of one column's occupied rows."""
        return self.columns[name][: len(self)]

    def next_rows(self, ready: Tensor, most: int, done: Tensor | None = None) -> slice | Tensor:
        """Choose rows in turn, so that each gets its share.

        Args:
            ready: Row numbers in rising order, at least one.
            most: At most this many.
            done: What each of them has had so far, where those that have had least come first, (rows,).

        Returns:
            A slice where the rows are neighbours, which saves copying them; else row numbers.
        """
        if len(ready) > most and done is not None:
            ready = ready[done.argsort(stable=True)[:most]].sort().values
        elif len(ready) > most:
            start = int(torch.searchsorted(ready, self._next))
            start = start if start < len(ready) else 0
            ready = torch.cat([ready[start : start + most], ready[: max(0, start + most - len(ready))]])
        first, last = int(ready[0]), int(ready[-1])
        self._next = last + 1
        return slice(first, last + 1) if last - first + 1 == len(ready) else ready

    def release(self, row: int) -> None:
        """Remove one image; the last occupied row takes its place."""
        last = len(self) - 1
        if row != last:
            for column in self.columns.values():
                column[row] = column[last]
            self.ids[row] = self.ids[last]
        self.ids.pop()

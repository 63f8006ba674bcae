"""Pool of the images under attack."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rfdlight.core.tensors import Columns, take
from rfdlight.engine.state import ImageState


def columns_of(images: ImageState) -> Columns:
    """Return all tensors of all groups by their paths, such as "evaluations.margins"."""
    groups = vars(images).items()
    return {f"{group}.{name}": column for group, columns in groups for name, column in _named(columns).items()}


def _named(group: Any) -> Columns:
    return group if isinstance(group, dict) else vars(group)


def _zeros(group: Any, rows: int) -> Any:
    made = {name: column.new_zeros((rows, *column.shape[1:])) for name, column in _named(group).items()}
    return made if isinstance(group, dict) else type(group)(**made)


class Pool:
    """Holds the state of up to `pool_size` images; occupied rows come first, without gaps."""

    images: ImageState  # of all rows; unset until the first images are admitted

    def __init__(self, pool_size: int) -> None:
        self.pool_size = pool_size
        self.ids: list[str] = []  # of the occupied rows
        self._columns: Columns = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def free(self) -> int:
        """Number of free rows."""
        return self.pool_size - len(self)

    @property
    def occupied(self) -> slice:
        """The occupied rows."""
        return slice(0, len(self))

    def admit(self, ids: list[str], images: ImageState) -> None:
        """Add images; the first ones fix the names, dtypes and shapes of all columns."""
        if not self._columns:
            self.images = type(images)(**{name: _zeros(group, self.pool_size) for name, group in vars(images).items()})
            self._columns = columns_of(self.images)
        new = columns_of(images)
        for name, column in self._columns.items():
            column[len(self) : len(self) + len(ids)] = new[name]
        self.ids += ids

    def attack_state(self, rows: slice | Tensor) -> Columns:
        """Return the columns that the attack works on: the shared ones and its own."""
        return take({**self.images.shared, **self.images.attack}, rows)

    def release(self, row: int) -> None:
        """Remove one image; the last occupied row takes its place."""
        last = len(self) - 1
        if row != last:
            for column in self._columns.values():
                column[row] = column[last]
            self.ids[row] = self.ids[last]
        self.ids.pop()

"""Scheduler: which forward pass is next, and for which images."""

from __future__ import annotations

import numpy as np

Rows = np.ndarray[tuple[int], np.dtype[np.int64]]
"""One number for each of some rows of the pool, in Python's memory."""

_PATIENCE = 16
"""Passes of queries after which waiting candidates are evaluated in a pass that is not full."""


class Scheduler:
    """Keeps forward passes full, and gives every image its share of the queries.

    In lockstep it prefers evaluations of the success criterion over queries where both fill a pass, and images with few
    queries over others, so that all images end together.
    """

    def __init__(self, lockstep: bool) -> None:
        self.lockstep = lockstep
        self._query_passes = 0
        self._next = 0

    def restart(self) -> None:
        """Begin again with the first rows."""
        self._next = 0

    def evaluates_next(self, ready: int, wanted: int, queries: int, evaluations: int) -> bool:
        """Return whether the next pass evaluates for the success criterion, rather than makes queries; count the pass.

        `ready` images wait for a query and the criterion for `wanted` evaluations; `queries` or `evaluations` fill a
        pass.
        """
        if (ready >= queries) != (wanted >= evaluations):
            evaluates = wanted >= evaluations
        elif ready >= queries:
            evaluates = self.lockstep
        else:
            evaluates = wanted * queries > ready * evaluations
        if self.lockstep and wanted:
            evaluates |= self._query_passes >= _PATIENCE
        self._query_passes = 0 if evaluates else self._query_passes + 1
        return evaluates

    def next_rows(self, ready: Rows, most: int, evaluated: Rows) -> slice | Rows:
        """Return at most `most` of the ready rows: in lockstep those with the fewest queries so far, else in turn.

        `evaluated` are the queries so far of each row. Neighbouring rows are a slice, which avoids copies.
        """
        if len(ready) > most and self.lockstep:
            ready = np.sort(ready[evaluated[ready].argsort(stable=True)[:most]])
        elif len(ready) > most:
            start = int(np.searchsorted(ready, self._next))
            start = start if start < len(ready) else 0
            ready = np.concatenate([ready[start : start + most], ready[: max(0, start + most - len(ready))]])
        first, last = int(ready[0]), int(ready[-1])
        self._next = last + 1
        return slice(first, last + 1) if last - first + 1 == len(ready) else ready

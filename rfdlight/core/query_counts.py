"""Clock of the running forward pass: the billed queries of each row, for noise schedules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


class _Clock:
    """Holds the clock of the process; a compiled victim cannot read a ContextVar."""

    now: Tensor | None = None


_clock = _Clock()


@contextmanager
def ticking(clock: Tensor) -> Iterator[None]:
    """Set the clock, (rows,) int64, for the forward passes inside; a forward pass has no other one inside."""
    _clock.now = clock
    try:
        yield
    finally:
        _clock.now = None  # not an earlier value: with passes in two threads, that of the other would stay


def current() -> Tensor | None:
    """Return the clock of the running forward pass, (images,) int64, or None outside of an attack."""
    return _clock.now

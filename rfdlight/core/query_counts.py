"""Clock of the running forward pass: the billed queries of each row, for noise schedules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_clock: ContextVar[Tensor | None] = ContextVar("query_clock", default=None)


@contextmanager
def ticking(clock: Tensor) -> Iterator[None]:
    """Set the clock, (rows,) int64, for the forward passes inside."""
    token = _clock.set(clock)
    try:
        yield
    finally:
        _clock.reset(token)


def current() -> Tensor | None:
    """Return the clock of the running forward pass, (images,) int64, or None outside of an attack."""
    return _clock.get()

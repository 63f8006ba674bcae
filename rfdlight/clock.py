"""How many queries each row of the running forward pass has been billed: what noise schedules see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
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


def read(rows: int, device: torch.device) -> Tensor:
    """Return the clock of the running forward pass; outside of an attack it stands at zero."""
    clock = _clock.get()
    if clock is None or len(clock) != rows:
        return torch.zeros(rows, dtype=torch.int64, device=device)
    return clock

"""Switches of the process that hooks read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Switch:
    """Turns hooks on and off, in the whole process: a compiled victim cannot read a ContextVar.

    Example:
        >>> switch = Switch()
        >>> with switch.off():
        ...     switch.on
        False
        >>> switch.on
        True
    """

    def __init__(self) -> None:
        self.on = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Turn the switch off inside a with block; blocks may be nested."""
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before

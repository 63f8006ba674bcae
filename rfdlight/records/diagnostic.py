"""Diagnostics: the outcome of a check, as one row of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rfdlight.errors import UserError, one_line

State = Literal["ok", "warn", "fail", "skip"]
"""`fail`: wrong numbers, or runs that will break; `warn`: numbers that may mislead; `skip`: no check was possible."""


@dataclass(frozen=True)
class Diagnostic:
    """The outcome of one check: what it found, and what to do about it, in one line each."""

    check: str
    state: State
    found: str
    remedy: str = ""


def guarded(name: str, check: Callable[[], list[Diagnostic]], remedy: str) -> list[Diagnostic]:
    """Run a check; its exception becomes a diagnostic.

    Example:
        >>> guarded("sizes", lambda: [][0], "try again")[0].found
        'IndexError: list index out of range'
    """
    try:
        return check()
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return [Diagnostic(name, "fail", one_line(text), remedy)]

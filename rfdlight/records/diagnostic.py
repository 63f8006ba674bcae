"""The result of one check: its state, a finding in one line, and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rfdlight.errors import UserError, one_line

State = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Diagnostic:
    """The result of one check.

    Attributes:
        check: Name of the check, a word or two.
        state: "fail" if runs break or mislead, "warn" if they may, "skip" if the check could not be made.
        found: The finding, one line.
        remedy: What to do; empty if nothing.
    """

    check: str
    state: State
    found: str
    remedy: str = ""


def guarded(name: str, check: Callable[[], list[Diagnostic]], remedy: str) -> list[Diagnostic]:
    """Run a check; an exception becomes a diagnostic of state "fail".

    Args:
        name: Name of the check, for that diagnostic.
        check: The check.
        remedy: What to do if the check raises.

    Example:
        >>> guarded("sizes", lambda: [][0], "try again")
        [Diagnostic(check='sizes', state='fail', found='IndexError: list index out of range', remedy='try again')]
    """
    try:
        return check()
    except Exception as error:
        found = one_line(error if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        return [Diagnostic(name, "fail", found, remedy)]

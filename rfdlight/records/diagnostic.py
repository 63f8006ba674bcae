"""What a check found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rfdlight.errors import UserError, one_line

State = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes:
        check: What was looked at, in a word or two.
        state: "fail" where runs break or mislead, "warn" where they may, or where only some can be made; "skip" where
            the check could not be made.
        found: One line.
        remedy: What to do, empty if nothing.
    """

    check: str
    state: State
    found: str
    remedy: str = ""


def guarded(name: str, check: Callable[[], list[Finding]], remedy: str) -> list[Finding]:
    """Run a check; one that breaks is a finding too.

    Args:
        name: Of the check, for that finding.
        check: Any exception of it is caught.
        remedy: What to do if it breaks.

    Example:
        >>> guarded("sizes", lambda: [][0], "try again")
        [Finding(check='sizes', state='fail', found='IndexError: list index out of range', remedy='try again')]
    """
    try:
        return check()
    except UserError as error:
        return [Finding(name, "fail", one_line(error), remedy)]
    except Exception as error:
        return [Finding(name, "fail", one_line(f"{type(error).__name__}: {error}"), remedy)]

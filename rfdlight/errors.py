"""The one exception that a user's input can cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 2000
"""Signs of a message; a user's own words may be part of it."""


class UserError(ValueError):
    """Something the user gave cannot be used; the message is one line and says what would be right.

    The command line prints it and ends with status 2; code that uses rfdlight as a library can
    catch it as the `ValueError` that it is.
    """


class DefenseError(UserError):
    """A defense cannot act on the model as it is configured; this holds for every image, so it ends a run."""


class ResumeError(UserError):
    """A run cannot be resumed: its directory is incomplete or damaged, or belongs to another experiment."""


def one_line(text: object) -> str:
    """Return a message, of an exception or as text, with every run of white space as one space."""
    return " ".join(str(text).split())


def shown(text: object) -> str:
    r"""Return text with what would steer a terminal, or hide in it, written out; files of others may hold such.

    Example:
        >>> shown("weights\x1b[2J of n\u00e9t")
        'weights\\x1b[2J of n\xe9t'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def legible(text: object) -> str:
    r"""Return a message as a terminal may show it in one line: as `shown`, and cut if it is very long.

    Example:
        >>> legible("no file 'a\nb'")
        "no file 'a\\nb'"
    """
    whole = str(text)
    if len(whole) > _LONGEST:
        whole = f"{whole[: _LONGEST // 2]} ... {whole[-_LONGEST // 2 :]}"
    return shown(whole)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that is not in a table, with the nearest names.

    Args:
        kind: What the name should have been, in the singular ("attack").
        name: What was given.
        known: The names that exist.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    else:
        more = f" and {len(known) - 20} more" if len(known) > 20 else ""
        hint = f"known: {', '.join(known[:20])}{more}"
    return UserError(f"unknown {kind} '{name}'; {hint}")


def expect(fits: bool, argument: str, expected: str, got: object, hint: str = "") -> None:
    """Raise a UserError that names an argument unless its value fits.

    Args:
        fits: Whether the value is accepted.
        argument: Name of the argument.
        expected: Accepted values, in words.
        got: The value.
        hint: What to do instead.

    Raises:
        UserError: If the value does not fit.
    """
    if not fits:
        raise UserError(f"{argument}: expected {expected}, got {got}" + (f"; {hint}" if hint else ""))

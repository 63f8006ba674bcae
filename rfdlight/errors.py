"""Exceptions for input that cannot be used, and the functions that write their one-line messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 2000
"""Characters of a message; a user's own text may be part of it."""


class UserError(ValueError):
    """Input cannot be used; the message is one line and names the expected value.

    The command line prints the message and exits with status `exit_status`. Code that uses rfdlight as a library can
    catch this class, or `ValueError`.
    """

    exit_status = 2
    """Exit status of the command line."""


class DefenseError(UserError):
    """A defense cannot act on the model as configured; the error holds for every image, so it ends a run."""


class Unreachable(UserError):  # noqa: N818  as a victim is described
    """The server of a victim gives no answer; no image is the cause."""


class ResumeError(UserError):
    """A run cannot be resumed: its directory is incomplete or damaged, or belongs to another experiment."""

    exit_status = 3


class SettingError(UserError):
    """The value of one setting, named as typed without leading dashes ("attack.eps"), cannot be used."""

    def __init__(self, setting: str, reason: str) -> None:
        self.setting = setting
        self.reason = reason
        super().__init__(f"{setting}: {reason}" if setting else reason)

    def below(self, group: str) -> SettingError:
        """Return the same error for a setting that belongs to a component, such as "eps" to "attack"."""
        return SettingError(f"{group}.{self.setting}".strip("."), self.reason)


def one_line(text: object) -> str:
    """Return a message, given as an exception or text, with every run of white space as one space."""
    return " ".join(str(text).split())


def shown(text: object) -> str:
    r"""Return text with control characters and invisible characters escaped; text from files may contain them.

    Example:
        >>> shown("weights\x1b[2J of n\u00e9t")
        'weights\\x1b[2J of n\xe9t'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def legible(text: object) -> str:
    r"""Return a message for one line of a terminal: escaped as by `shown`, with the middle of a long message cut out.

    Example:
        >>> legible("no file 'a\nb'")
        "no file 'a\\nb'"
    """
    whole = str(text)
    if len(whole) > _LONGEST:
        whole = f"{whole[: _LONGEST // 2]} ... {whole[-_LONGEST // 2 :]}"
    return shown(whole)


def kind_of(value: object) -> str:
    """Return what kind of object a value is: the name of its type, and a class and None as themselves.

    Example:
        >>> kind_of(0.1), kind_of(float), kind_of(None)
        ('float', 'the class float', 'None')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else type(value).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for a name that is not in a table: the nearest names, or the known names if none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return f"known: {', '.join(known[:20])}{more}"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name of a kind, in the singular ("attack"), that is not in a table."""
    return UserError(f"unknown {kind} '{name}'; {nearest(name, known)}")


def expect(fits: bool, argument: str, expected: str, got: object, hint: str = "") -> None:
    """Raise a UserError with the accepted values of an argument in words, unless its value fits."""
    if not fits:
        raise UserError(f"{argument}: expected {expected}, got {got}" + (f"; {hint}" if hint else ""))

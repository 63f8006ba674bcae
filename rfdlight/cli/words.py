"""The words of a command line: options with their values, and positional arguments."""

from __future__ import annotations

from typing import NamedTuple

from rfdlight.cli.values import number_of


class Word(NamedTuple):
    """An option with its value, or a positional argument, whose flag is empty."""

    flag: str
    value: str | None = None

    def written(self) -> str:
        """Return the argument that the parser reads; a value such as -8/255 apart would be an option to it."""
        if self.value is None:
            return self.flag
        return f"{self.flag}={self.value}" if self.flag else self.value


def split(args: list[str]) -> list[Word]:
    """Return the options of a command with their values, and its positional arguments."""
    words: list[Word] = []
    for arg in args:
        flag, joined, value = arg.partition("=")
        if arg.startswith("-") and number_of(arg) is None:
            words.append(Word(flag, value if joined else None))
        elif words and words[-1].flag not in ("", "--") and words[-1].value is None:
            words[-1] = Word(words[-1].flag, arg)
        else:
            words.append(Word("", arg))
    return words

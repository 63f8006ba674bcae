"""The consoles that rfdlight prints on."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console


def plain_console(stderr: bool = False, file: TextIO | None = None, quiet: bool = False) -> Console:
    """Return a console that prints brackets and colons in names and paths as they are.

    By default rich removes `[bold]` from text as markup and replaces `:warning:` by a picture.

    Args:
        stderr: Print on standard error instead of standard output.
        file: Print there instead.
        quiet: Print nothing.
    """
    return Console(stderr=stderr, file=file, quiet=quiet, markup=False, emoji=False)

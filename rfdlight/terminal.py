"""The consoles that rfdlight prints on."""

from __future__ import annotations

from rich.console import Console


def plain_console(stderr: bool = False) -> Console:
    """Return a console that prints brackets and colons in names and paths as they are.

    By default rich removes `[bold]` from text as markup and replaces `:warning:` by a picture.

    Args:
        stderr: Print on standard error instead of standard output.
    """
    return Console(stderr=stderr, markup=False, emoji=False)

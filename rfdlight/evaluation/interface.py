"""Messages and the progress line of an evaluation, for a terminal, a notebook or a log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from rfdlight._io import plain_console
from rfdlight.evaluation.progress import ProgressDisplay

LOGGER = logging.getLogger("rfdlight")


@dataclass(frozen=True)
class Interface:
    """Where the messages and the progress line of an evaluation go.

    Attributes:
        message: Receives each message, of one or several lines.
        warning: Receives each warning before the attack, of one line.
        console: Where the progress line is drawn; None draws none.
    """

    message: Callable[[str], None]
    warning: Callable[[str], None]
    console: Console | None

    def progress(self, images: int, budget: int) -> ProgressDisplay | None:
        """Start the progress line of an attack on a number of images with a budget of queries per image."""
        return ProgressDisplay(self.console, images, budget) if self.console else None


def console_interface(console: Console) -> Interface:
    """Return the interface of the command line: everything goes to one console, warnings are part of the banner."""
    return Interface(lambda text: console.print(text, soft_wrap=True), lambda text: None, console)


def log_interface(progress: bool | None = None) -> Interface:
    """Return the interface of Python code: messages go to the logger `rfdlight`.

    Args:
        progress: Draw the progress line; by default on a terminal and in a notebook alone.
    """
    console = plain_console(stderr=True)
    wanted = (console.is_terminal or console.is_jupyter) if progress is None else progress
    return Interface(LOGGER.info, LOGGER.warning, console if wanted else None)


SILENT = Interface(lambda text: None, lambda text: None, None)
"""No messages and no progress line."""

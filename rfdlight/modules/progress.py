"""What a user watches during an evaluation."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressDisplay:
    """One line on the terminal: images done, robust so far, queries per second, time left.

    Args:
        console: Where it is drawn; nothing is drawn where that is no terminal.
        images: How many there are.
    """

    def __init__(self, console: Console, images: int) -> None:
        self._progress = Progress(
            TextColumn("attacking"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("robust so far {task.fields[robust]}"),
            TextColumn("{task.fields[rate]} queries/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._images = images
        self._task = self._progress.add_task("", total=images, robust="  - %", rate="-")
        self._started = time.monotonic()
        self._drawn = 0.0
        self._progress.start()

    def update(self, done: int, robust: int, queries: int) -> None:
        """Draw, at most five times a second.

        Args:
            done: Finished images.
            robust: Those among them that held.
            queries: Billed so far, over all images.
        """
        now = time.monotonic()
        if now - self._drawn < 0.2 and done < self._images:
            return
        self._drawn = now
        rate = queries / max(now - self._started, 1e-9)
        share = f"{robust / done:.1%}" if done else "-"
        self._progress.update(self._task, completed=done, robust=share, rate=f"{rate:,.0f}")

    def close(self) -> None:
        """Take the line away."""
        self._progress.stop()

"""The progress line of an evaluation."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from rfdlight._io import plain_console

_PAUSE = 0.2
"""Seconds between two drawings."""


@dataclass(frozen=True)
class Tally:
    """The images and queries of a run so far.

    Attributes:
        done: Images that are finished, or on which the victim failed.
        robust: Finished images that are robust.
        begun: Images in work whose clean answer is known.
        holding: Those of them that were classified correctly and are robust so far.
        queries: Queries of this attempt at the run.
        settled: Those of them that went to finished images.
    """

    done: int = 0
    robust: int = 0
    begun: int = 0
    holding: int = 0
    queries: int = 0
    settled: int = 0

    @property
    def counts(self) -> tuple[int, ...]:
        """The counts in the order of the attributes, for `Tally(*counts)`."""
        return astuple(self)

    @property
    def robust_so_far(self) -> float | None:
        """Share of the images begun that are robust so far, None before the first.

        Finished images alone would be a biased sample: images that break finish first.
        """
        begun = self.done + self.begun
        return (self.robust + self.holding) / begun if begun else None

    def queries_left(self, images: int, budget: int) -> int:
        """Return how many queries the run still makes at most, of `budget` for each of `images`."""
        return max(0, budget * (images - self.done) - (self.queries - self.settled))


class ProgressDisplay:
    """One line on the terminal: images done, robust so far, queries per second, time left at most.

    Args:
        console: Where the line is drawn; where this is no terminal, the error output, and nothing if that is none.
        images: Images of the run.
        budget: Queries per image.
    """

    def __init__(self, console: Console, images: int, budget: int) -> None:
        self._images, self._budget = images, budget
        own = console.is_terminal
        self._progress = Progress(
            BarColumn(bar_width=10),
            TextColumn("{task.fields[line]}"),
            console=console if own else _error_console(console),
            transient=True,
            redirect_stdout=own,
            redirect_stderr=own,
        )
        self._progress.disable = not self._progress.console.is_terminal
        self._task = self._progress.add_task("", total=1.0, line="")
        self._started = time.monotonic()
        self._drawn = -math.inf
        self._progress.start()

    @property
    def due(self) -> bool:
        """Whether the line is to be drawn anew."""
        return not self._progress.disable and time.monotonic() - self._drawn >= _PAUSE

    def update(self, counts: Sequence[int]) -> None:
        """Draw the line.

        Args:
            counts: Those of a `Tally`.
        """
        self._drawn = time.monotonic()
        tally = Tally(*counts)
        line = progress_line(tally, self._images, self._budget, self._drawn - self._started)
        self._progress.update(self._task, completed=self._share(tally), line=line)

    def _share(self, tally: Tally) -> float:
        planned = self._images * self._budget
        return 1 - tally.queries_left(self._images, self._budget) / planned if planned else tally.done / self._images

    def close(self) -> None:
        """Take the line away."""
        self._progress.stop()


def progress_line(tally: Tally, images: int, budget: int, seconds: float) -> str:
    """Return the progress of a run in words.

    The time left is an upper bound: all images that are not finished use up their budget.

    Args:
        tally: Of the run.
        images: Of the run.
        budget: Queries per image.
        seconds: Since the first query of this attempt.
    """
    share = tally.robust_so_far
    rate = tally.queries / seconds if seconds > 0 else 0.0
    left = f"at most {duration(tally.queries_left(images, budget) / rate)} left" if rate else "time left unknown"
    robust = "-" if share is None else f"{share:.1%}"
    return f"{tally.done:,}/{images:,} robust so far {robust} {rate:,.0f} queries/s {duration(seconds)} {left}"


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds.

    Example:
        >>> duration(75), duration(7384.2)
        ('1:15', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _error_console(console: Console) -> Console:
    """Return the error output of the process, which stays a terminal while a command's output goes to a file."""
    return plain_console(file=sys.__stderr__, quiet=console.quiet)

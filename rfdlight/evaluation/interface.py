"""What a user sees of an evaluation while it runs: banner, messages, progress line and heartbeat."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from rfdlight._io import plain_console
from rfdlight.attacks.base import Attack
from rfdlight.records import progress
from rfdlight.records.progress import Progress as Beat
from rfdlight.reporting.tables import duration

LOGGER = logging.getLogger("rfdlight")

_ACCESS = {"decision": "decision-based", "score": "score-based", "gradient": "white-box"}

_PAUSE = 0.2
"""Seconds between two drawings of the progress line."""

_BEAT = 2.0
"""Seconds between two heartbeats."""


@dataclass(frozen=True)
class Interface:
    """Where the messages, the warnings before the attack and the progress line of an evaluation go."""

    message: Callable[[str], None]
    warning: Callable[[str], None]
    console: Console | None  # None draws no progress line

    def progress(self, images: int, budget: int) -> ProgressDisplay | None:
        """Start the progress line of an attack on a number of images with a budget of queries per image."""
        return ProgressDisplay(self.console, images, budget) if self.console else None


def console_interface(console: Console) -> Interface:
    """Return the interface of the command line: everything goes to one console, warnings are part of the banner."""
    return Interface(lambda text: console.print(text, soft_wrap=True), lambda text: None, console)


def log_interface(progress: bool | None = None) -> Interface:
    """Return the interface of Python code; it draws the line by default on a terminal and in a notebook alone."""
    console = plain_console(stderr=True)
    wanted = (console.is_terminal or console.is_jupyter) if progress is None else progress
    return Interface(LOGGER.info, LOGGER.warning, console if wanted else None)


SILENT = Interface(lambda text: None, lambda text: None, None)
"""No messages and no progress line."""


def run_banner(
    settings: dict[str, Any], attack: Attack, pool_size: int, warnings: Sequence[str] = (), chosen: str | None = None
) -> str:
    """Return the lines before the first query: the settings of `Subject.settings`, and warnings of one line each.

    `chosen` says how the batch size was chosen by timing, if it was.
    """
    name = f"{settings['attack']}, targeted" if settings["targeted"] else settings["attack"]
    averaged = f", {settings['eot']} evaluations averaged in each" if settings["eot"] > 1 else ""
    compiled = ", victim compiled" if settings["compiled"] else ""
    lines = [
        f"victim   {settings['victim']}",
        f"defense  {settings['defense']}",
        f"attack   {name}, {_ACCESS[attack.access]}, {settings['norm']} ball of eps {settings['eps']:g}",
        f"options  {settings['options']}",
        *([f"with a surrogate: {settings['surrogate']}"] if settings["surrogate"] else []),
        f"budget   {settings['budget']} queries per image{averaged}, query counting {settings['query_counting']}, "
        f"criterion {settings['criterion']}, attack in {settings['precision']}{compiled}",
        f"images   {settings['num_images']} of {settings['data']} ({settings['selection']}), "
        f"up to {min(pool_size, settings['num_images'])} at a time",
        *([f"passes   {chosen}"] if chosen else []),
        *(f"warning  {warning}" for warning in warnings),
    ]
    weaker = attack.budget_warning(settings["budget"])
    if weaker is not None:
        lines.append(f"warning  {weaker}")
    if settings["precision"] == "bfloat16" and attack.access != "decision":
        lines.append(f"warning  bfloat16 rounds the {attack.access}s, which hides small changes from the attack")
    return "\n".join(lines)


class Tally(NamedTuple):
    """The images and queries of a run so far."""

    done: int = 0  # images that are finished, or on which the victim failed
    robust: int = 0  # finished images that are robust
    begun: int = 0  # images in work whose clean answer is known
    holding: int = 0  # images in work that are robust so far
    queries: int = 0  # of this attempt at the run
    settled: int = 0  # queries of this attempt for finished images

    @property
    def robust_so_far(self) -> float | None:
        """Share of the images begun that are robust so far: finished images alone would be a biased sample."""
        begun = self.done + self.begun
        return (self.robust + self.holding) / begun if begun else None

    def queries_left(self, images: int, budget: int) -> int:
        """Return how many queries the run still makes at most, of `budget` for each of `images`."""
        return max(0, budget * (images - self.done) - (self.queries - self.settled))


class ProgressDisplay:
    """One line on a terminal, that of the console or else of the error output: robust so far, speed, time left."""

    def __init__(self, console: Console, images: int, budget: int) -> None:
        self._images, self._budget = images, budget
        own = console.is_terminal
        target = console if own else plain_console(file=sys.__stderr__, quiet=console.quiet)
        self._progress = Progress(
            BarColumn(bar_width=10),
            TextColumn("{task.fields[line]}"),
            console=target,
            transient=True,
            redirect_stdout=own,
            redirect_stderr=own,
            disable=not target.is_terminal,
        )
        self._task = self._progress.add_task("", total=1.0, line="")
        self._started = time.monotonic()
        self._drawn = -math.inf
        self._progress.start()

    @property
    def due(self) -> bool:
        """Whether the line is to be drawn anew."""
        return not self._progress.disable and time.monotonic() - self._drawn >= _PAUSE

    def update(self, tally: Tally) -> None:
        """Draw the line."""
        self._drawn = time.monotonic()
        line = progress_line(tally, self._images, self._budget, self._drawn - self._started)
        planned = self._images * self._budget
        left = tally.queries_left(self._images, self._budget)
        share = 1 - left / planned if planned else tally.done / self._images
        self._progress.update(self._task, completed=share, line=line)

    def close(self) -> None:
        """Take the line away."""
        self._progress.stop()


class Heartbeat:
    """Writes the progress of a run to its directory, from process 0, for those who watch from elsewhere.

    Of several processes, process 0 sees its own counts as they are, and those of the others as they were up to two
    seconds ago, or at their end. A run goes on without a heartbeat where none can be written.
    """

    def __init__(self, run: Path, images: int, budget: int) -> None:
        self._run, self._images, self._budget = run, images, budget
        self._started = time.monotonic()
        self._written = -math.inf

    @property
    def due(self) -> bool:
        """Whether the heartbeat is to be written anew."""
        return time.monotonic() - self._written >= _BEAT

    def update(self, tally: Tally) -> None:
        """Write the heartbeat."""
        self._written = time.monotonic()
        beat = Beat(
            time=time.time(),
            images=self._images,
            budget=self._budget,
            done=tally.done,
            robust_so_far=tally.robust_so_far,
            queries=tally.queries,
            seconds=self._written - self._started,
            queries_left=tally.queries_left(self._images, self._budget),
        )
        progress.write(self._run, beat)

    def close(self) -> None:
        """Keep the last heartbeat."""


def progress_line(tally: Tally, images: int, budget: int, seconds: float) -> str:
    """Return the progress of a run in words; the time left is an upper bound, in which no further attack succeeds."""
    share = tally.robust_so_far
    rate = tally.queries / seconds if seconds > 0 else 0.0
    left = f"at most {duration(tally.queries_left(images, budget) / rate)} left" if rate else "time left unknown"
    robust = "-" if share is None else f"{share:.1%}"
    return f"{tally.done:,}/{images:,} robust so far {robust} {rate:,.0f} queries/s {duration(seconds)} {left}"

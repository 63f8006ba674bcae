"""The loop of a sweep: hands packs of cells to a launcher until every cell is complete or has failed."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Set
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rfdlight.cli.sweep.cell_files import finished_images, is_running, note, read_log
from rfdlight.cli.sweep.launchers import Launcher
from rfdlight.cli.sweep.packs import Pack
from rfdlight.records.result import Result, result_of, size_of
from rfdlight.reporting.tables import duration, interval, percent

_DEATHS = 5
"""How many processes of a cell may die one after the other without finishing an image before the cell has failed."""

_PAUSE = 1.0
"""Seconds between two looks at the cells."""

_LOOK = 5.0
"""Seconds between two looks at the cells of packs that run."""


class Driver:
    """Runs packs of cells and prints a line for each cell that ends.

    What became of a cell is read from the files in the folder, so that another sweep in the same folder, and jobs of
    an earlier one, may run some of the cells.

    Args:
        folder: Folder of the sweep.
        packs: The packs of all cells that are to run, in order.
        launcher: Runs the packs.
        console: Gets the lines.
        retries: How often a cell that failed is run again.
        watch: Called at least once a second.
    """

    def __init__(
        self,
        folder: Path,
        packs: Iterable[Pack],
        launcher: Launcher,
        console: Console,
        retries: int = 0,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.failed: dict[str, str] = {}  # reasons by cell
        self._launcher = launcher
        self._console = console
        self._retries = retries
        self._watch = watch
        self._waiting = deque(packs)
        self._jobs = {job.name: job for pack in self._waiting for job in pack.jobs}
        self._out: dict[str, int] = {}  # attempts before this one, of the cells that a launcher has
        self._elsewhere: set[str] = set()  # cells that another sweep runs
        self._failures: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()
        self._images: dict[str, int] = {}  # finished when a process of the cell died last
        self._ended: set[str] = set()
        self._looked = time.monotonic()

    def run(self) -> bool:
        """Run all cells; return False if a signal stopped the sweep."""
        self._begun = time.monotonic()
        self._adopt()
        while len(self._ended) < len(self._jobs):
            ready = [self._waiting.popleft() for _ in range(min(self._launcher.capacity, len(self._waiting)))]
            self._out |= {name: read_log(self.folder, name).attempts for pack in ready for name in pack.names}
            if ready:
                self._launcher.submit(ready)
            for ended in self._launcher.wait(_PAUSE):
                for name in ended.pack.names:
                    if not self._conclude(name, ended.died):
                        return False
            self._look_into_packs()
            self._look_elsewhere()
            self._watch()
        return True

    def _adopt(self) -> None:
        """Leave to the jobs of an earlier sweep the cells that they still have."""
        for pack in self._launcher.adopted():
            names = self._jobs.keys() & set(pack.names)  # its other cells are complete, or of another experiment
            for name in names:
                log = read_log(self.folder, name)
                runs = log.begun is not None and log.end is None
                self._out[name] = log.attempts - runs
            self._remove(names)

    def _remove(self, names: Set[str]) -> None:
        left = (Pack(tuple(job for job in pack.jobs if job.name not in names)) for pack in self._waiting)
        self._waiting = deque(pack for pack in left if pack.jobs)

    def _conclude(self, name: str, died: str) -> bool:
        """Note what became of a cell when its pack has ended; return False if the sweep was stopped."""
        if name not in self._out:
            return True
        before, log = self._out.pop(name), read_log(self.folder, name)
        begun = log.attempts > before
        end = log.end if begun else None  # of the attempt that this pack made
        complete = size_of(self.folder / name) is not None
        if end is not None and end.stopped and self._launcher.stops_together:
            return False
        if end is not None and end.anew:
            self._print(f"{name}: {end.anew}; it began anew", "yellow")
        if complete:
            self._end(name, end.failed if end is not None else "")
        elif end is not None and end.failed:
            self._failures[name] += 1
            self._again_unless(name, self._failures[name] > self._retries, end.failed)
        elif begun or died:
            killed = end.killed if end is not None else ""
            self._again_unless(name, self._died_too_often(name), died or killed or "it was stopped")
        elif is_running(self.folder, name):
            self._elsewhere.add(name)
        else:
            self._again(name)
        return True

    def _died_too_often(self, name: str) -> bool:
        """Count a process that ended without the cell's; one that has finished images counts as the first."""
        images = finished_images(self.folder / name)
        self._deaths[name] = 1 if images > self._images.get(name, 0) else self._deaths[name] + 1
        self._images[name] = images
        return self._deaths[name] >= _DEATHS

    def _again_unless(self, name: str, too_often: bool, reason: str) -> None:
        if too_often:
            if read_log(self.folder, name).end is None:  # a killed process has written down no reason
                note(self.folder, name, ended=True, failed=reason)
            self._end(name, reason)
        else:
            self._print(f"{name} is run again: {reason}", "yellow")
            self._again(name)

    def _again(self, name: str) -> None:
        self._waiting.appendleft(Pack((self._jobs[name],)))

    def _look_into_packs(self) -> None:
        """Print the results of complete cells whose process runs other cells of their pack."""
        if time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        for name, before in [*self._out.items()]:
            log = read_log(self.folder, name)
            has_ended = log.attempts > before and log.end is not None and not is_running(self.folder, name)
            if has_ended and size_of(self.folder / name) is not None:
                self._conclude(name, "")

    def _look_elsewhere(self) -> None:
        """Take over the cells that another sweep has left, and count those that it has completed."""
        for name in [name for name in self._elsewhere if not is_running(self.folder, name)]:
            self._elsewhere.remove(name)
            if size_of(self.folder / name) is not None:
                self._end(name, "")
            else:
                self._again(name)

    def _end(self, name: str, failed: str) -> None:
        """Print the result of a cell."""
        self._ended.add(name)
        result = result_of(self.folder / name)
        log = read_log(self.folder, name)
        took = log.end.time - log.begun.time if log.begun is not None and log.end is not None else None
        passed = time.monotonic() - self._begun
        line = f"cell {len(self._ended)} of {len(self._jobs)}, {name}: {headline(result) if result else 'no result'}; "
        line += f"{duration(took)}, " if took is not None else ""
        line += f"all {duration(passed)}{self._left(passed)}"
        self._print(line)
        if failed:
            self.failed[name] = failed
            self._print(f"{name} failed: {failed}", "red")

    def _left(self, passed: float) -> str:
        """Return a guess of the time left, from the estimated times of the cells that have ended."""
        total, done = (
            sum(job.seconds for job in jobs) for jobs in (self._jobs.values(), map(self._jobs.__getitem__, self._ended))
        )
        if len(self._ended) == len(self._jobs):
            return ""
        return f", about {duration(passed * (total - done) / done)} left" if done else ""

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), soft_wrap=True)


def headline(result: Result) -> str:
    """Return the clean and robust accuracy as text."""
    return f"robust {percent(result.robust)} ({interval(result.robust)}), clean {percent(result.clean)}"

"""The run of a sweep: its cells checked, its launcher chosen, its state shown while it runs."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rfdlight._io import write_file
from rfdlight.cli import main
from rfdlight.cli.sweep.cells import Checked, check_cells
from rfdlight.cli.sweep.driver import Driver
from rfdlight.cli.sweep.estimate import jobs_of, plan
from rfdlight.cli.sweep.experiment import Cell
from rfdlight.cli.sweep.launchers import InThisProcess, Launcher
from rfdlight.cli.sweep.local_processes import LocalProcesses
from rfdlight.cli.sweep.packs import longest_first, one_by_one
from rfdlight.cli.sweep.ray_tasks import RayTasks
from rfdlight.cli.sweep.slurm_arrays import SlurmArrays
from rfdlight.cli.sweep.status import states, status_table

__all__ = ["check", "launcher_of", "plan", "run"]

_FEWEST = 3
"""Rows of the live table in the lowest of terminals."""

_AROUND = 12
"""Lines of a terminal that the live table leaves for its head, its totals and reasons of failures."""


def check(missing: list[Cell]) -> dict[str, Checked]:
    """Make the components of the cells that are to run, so that every error is found before the first run."""
    with tempfile.TemporaryDirectory() as scratch:
        return check_cells(missing, Path(scratch), main.make)


def launcher_of(
    folder: Path, checked: dict[str, Checked], jobs: int | None, slurm: dict[str, Any] | None, ray: Any
) -> Launcher:
    """Return the launcher: tasks of a connected `ray`, jobs with the options of `slurm`, or this machine."""
    apart = [cell for cell, found in checked.items() if found.processes > 1]
    if ray is not None:
        return RayTasks(folder, apart, jobs, ray)
    if slurm is not None:
        return SlurmArrays(folder, apart, jobs, slurm)
    return LocalProcesses(folder, apart, jobs) if jobs is not None and jobs > 1 else InThisProcess(folder, apart)


def run(
    launcher: Launcher,
    missing: list[Cell],
    checked: dict[str, Checked],
    cells: list[Cell],
    retries: int,
    console: Console,
) -> list[str] | None:
    """Run cells and return the names of those that failed, None if the sweep was stopped."""
    for cell in missing:
        write_file(cell.file(launcher.folder), cell.as_yaml())
    with _signals():
        try:
            launcher.check({cell.name: cell.resources for cell in missing})
            jobs = jobs_of(missing, checked, launcher.has_gpus, measure=launcher.processes > 1)
            packs = longest_first(jobs, launcher.processes) if launcher.processes > 1 else one_by_one(jobs)
            with _view(launcher, cells, console) as watch:
                driver = Driver(launcher.folder, packs, launcher, console, retries, watch)
                return list(driver.failed) if driver.run() else None
        except KeyboardInterrupt:
            return None
        finally:
            going_on = launcher.close()
            if going_on:
                console.print(Text(going_on), soft_wrap=True)


@contextmanager
def _view(launcher: Launcher, cells: list[Cell], console: Console) -> Iterator[Callable[[], None]]:
    """Show the state of all cells on a terminal while several run; the value redraws it."""
    if not console.is_terminal or launcher.processes == 1:
        yield lambda: None
        return
    names, most = [cell.name for cell in cells], max(_FEWEST, console.height - _AROUND)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda: live.update(status_table(states(launcher.folder, names), most), refresh=True)


@contextmanager
def _signals() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

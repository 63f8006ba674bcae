"""A process that runs cells of a sweep: one of this machine, or a task of Ray or SLURM.

`python -m rfdlight.cli.sweep.worker` reads an assignment per line from its standard input, as JSON, and answers each
with a line when its cells are done.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml
from filelock import FileLock

from rfdlight._io import read_text
from rfdlight.cli import front
from rfdlight.cli.launcher import end_with_parent
from rfdlight.cli.sweep.cell_files import held, note
from rfdlight.cli.sweep.cells import INTERRUPTED, run_cell
from rfdlight.cli.sweep.experiment import Cell
from rfdlight.cli.sweep.loads import Loads
from rfdlight.errors import UserError
from rfdlight.records import journal
from rfdlight.records.result import size_of
from rfdlight.records.storage import upload

_ENDING = 60.0
"""Seconds in which the processes of an earlier attempt at a cell end, once they have lost their parent."""


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Cells that a worker runs one after the other, as it is sent from the process that schedules them."""

    folder: str  # of the sweep, absolute
    cells: list[str]  # their names; their configurations lie in the folder
    working_folder: str  # in which users keep their modules, and to which relative paths refer
    apart: list[str] = []  # cells that start processes of their own
    upload: str = ""  # URL that gets a copy of each finished cell, if any


@dataclass
class Worker:
    """Runs cells, and keeps what they load for the next ones."""

    loads: Loads = field(default_factory=Loads)

    def run(self, assignment: Assignment) -> None:
        """Run the cells that are not complete and that no other process runs, until a signal stops one."""
        folder = Path(assignment.folder)
        for name in assignment.cells:
            with held(folder, name) as mine:
                if not mine:
                    continue
                stopped = size_of(folder / name) is None and self._run_cell(folder, name, name in assignment.apart)
                if assignment.upload and size_of(folder / name) is not None:
                    _upload(folder, name, assignment.upload)
            if stopped:
                return

    def _run_cell(self, folder: Path, name: str, apart: bool) -> bool:
        """Run or resume a cell, and return whether a signal stopped it."""
        place = folder / name
        _wait_for_others(place)
        note(folder, name)
        cell = Cell(name, yaml.safe_load(read_text(folder / f"{name}.yaml")))
        summaries = _summaries(place)
        done = run_cell(folder, cell, None if apart else self._command)
        # A run that is stopped writes the summary of its first images, a standard evaluation in the folder of a stage.
        cut = done.status == INTERRUPTED or bool(done.status == 1 and _summaries(place) - summaries)
        stopped = cut and size_of(place) is None
        killed = done.reason if done.status < 0 else ""
        failed = "" if stopped or killed else done.reason
        note(folder, name, ended=True, failed=failed, stopped=stopped, killed=killed, anew=done.anew)
        return stopped

    def _command(self, line: list[str]) -> int:
        return front.main(line, self.loads.share)


def _upload(folder: Path, name: str, url: str) -> None:
    """Upload a finished cell; a failure becomes the end of its attempt, and the next sweep uploads it again."""
    try:
        upload(folder / name, url)
    except UserError as error:
        note(folder, name, ended=True, failed=str(error))


def _wait_for_others(place: Path) -> None:
    """Wait for the processes of an earlier attempt whose worker was killed: each run directory has one writer."""
    for path in place.rglob(f"{journal.FOLDER}/lock"):
        with FileLock(path, timeout=_ENDING):
            pass


def _summaries(place: Path) -> set[tuple[Path, int]]:
    """Return the summaries of the runs in and below a folder, with the times of their changes."""
    return {(path, path.stat().st_mtime_ns) for path in place.rglob("summary.json")}


_WORKER = Worker()


def run_assignment(assignment: dict[str, Any]) -> None:
    """Run cells in a task of Ray or SLURM, whose process may run other cells afterwards."""
    given = msgspec.convert(assignment, Assignment)
    os.chdir(given.working_folder)
    if given.working_folder not in sys.path:
        sys.path.insert(0, given.working_folder)
    _WORKER.run(given)


def main() -> None:
    """Run the cells of one assignment after the other until the standard input ends."""
    end_with_parent()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what else is printed goes to the worker's own log
    for line in sys.stdin:
        _WORKER.run(msgspec.json.decode(line, type=Assignment))
        answers.write("done\n")


if __name__ == "__main__":
    main()

"""Run directories: each holds one run and never another."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rfdlight._io import PARTIAL
from rfdlight.errors import UserError
from rfdlight.records import journal

FINGERPRINT = "fingerprint.json"
"""In a run directory: everything that decides the numbers of the run."""


def plan(path: str | None, label: str) -> Path:
    """Choose the run directory of a new run, by default `runs/<time>-<label>`; it is not made yet."""
    if path is None:
        first = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{label}"
        numbered = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
        return next(planned for planned in itertools.chain([first], numbered) if not planned.exists())
    planned = Path(path)
    if planned.exists() and not planned.is_dir():
        raise UserError(f"{planned} is a file; give a folder")
    if planned.is_dir() and any(planned.iterdir()) and not _has_not_begun(planned):
        raise UserError(f"{planned} already holds another run; give another folder, or move that one")
    return planned


def _has_not_begun(folder: Path) -> bool:
    """Return whether a folder holds only the files of a run that was killed before it began.

    The journal of a standard evaluation is in the folder of its first stage.
    """
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.name.startswith(PARTIAL)}
    journals = [journal.FOLDER, *(f"{path.name}/{journal.FOLDER}" for path in folder.glob("1-*"))]
    known = {"config.yaml"}.union(*({place, place.split("/")[0], f"{place}/lock"} for place in journals))
    return any(place in kept for place in journals) and kept <= known


def refuse_links(run: Path) -> None:
    """Refuse a run directory that contains a link: a report would show, or a run overwrite, a file elsewhere."""
    try:
        link = next((path for path in (*run.glob("*"), *run.glob("journal/*")) if path.is_symlink()), None)
    except OSError as error:
        raise UserError(f"cannot read the run directory {run}: {error.strerror}") from error
    if link is not None:
        raise UserError(f"{link} is a link; expected a file of the run's own, as rfdlight test writes it")


@contextmanager
def left_out_unless(planned: Path, begun: Callable[[], bool]) -> Iterator[None]:
    """Remove the files of a run that fails before `begun` returns True."""
    missing = [folder for folder in (planned, *planned.parents) if not folder.exists()]
    before = set(planned.iterdir()) if planned.is_dir() else set()
    try:
        yield
    except BaseException:
        if not begun() and planned.is_dir():
            for path in set(planned.iterdir()) - before:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            for folder in missing:
                folder.rmdir()
        raise


def create(planned: Path) -> Path:
    """Make the run directory."""
    try:
        planned.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run directory {planned}: {error.strerror}") from error
    return planned

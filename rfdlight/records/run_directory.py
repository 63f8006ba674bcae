"""The folder that holds one run and never another."""

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


def plan(path: str | None, label: str) -> Path:
    """Decide where a run will go, without making the folder.

    Args:
        path: What the user asked for; by default `runs/<time>-<label>`, with a number behind it
            where a run of the same second has that.
        label: What the run is.

    Raises:
        UserError: If something is already there; names no option, since commands call theirs differently.
    """
    if path is None:
        first = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{label}"
        numbered = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
        return next(planned for planned in itertools.chain([first], numbered) if not planned.exists())
    planned = Path(path)
    if planned.exists() and not planned.is_dir():
        raise UserError(f"{planned} is a file; give a folder")
    if planned.is_dir() and any(planned.iterdir()) and not _was_about_to_begin(planned):
        raise UserError(f"{planned} already holds another run; give another folder, or move that one")
    return planned


def refuse_links(run: Path) -> None:
    """Refuse a run directory with a link in it, which no run makes; the directory itself may be one.

    What lies elsewhere would be shown as the run's own, in a page that goes to others, or written over.

    Raises:
        UserError: If there is one, or the directory cannot be read.
    """
    try:
        link = next((path for path in (*run.glob("*"), *run.glob("journal/*")) if path.is_symlink()), None)
    except OSError as error:
        raise UserError(f"cannot read the run directory {run}: {error.strerror}") from error
    if link is not None:
        raise UserError(f"{link} is a link; expected a file of the run's own, as rfdlight test writes it")


def _was_about_to_begin(folder: Path) -> bool:
    """Return whether a folder has no more than a run leaves whose process, or disk, ended before it had begun.

    Such a run cannot be gone on with, and must not bar the way of another.
    """
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.name.startswith(PARTIAL)}
    return journal.FOLDER in kept <= {journal.FOLDER, f"{journal.FOLDER}/lock", "config.yaml"}


@contextmanager
def left_out_unless(planned: Path, begun: Callable[[], bool]) -> Iterator[None]:
    """Take what a run has written away where the run is refused before it has begun.

    Args:
        planned: Its folder, as `plan` returned it.
        begun: Returns whether the run has begun, so that its folder stays.
    """
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
    """Make the folder.

    Raises:
        UserError: If it cannot be made.
    """
    try:
        planned.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run directory {planned}: {error.strerror}") from error
    return planned

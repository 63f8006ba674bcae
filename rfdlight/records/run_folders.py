"""Finds the runs of a report in folders: run directories, and standard evaluations, each as one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rfdlight.errors import UserError, shown
from rfdlight.records import standard, storage
from rfdlight.records.result import is_unfinished
from rfdlight.records.runs import FILES, Run, load_run
from rfdlight.records.standard import Standard


@contextmanager
def opened_runs(paths: Iterable[str | Path], pixels: bool = False) -> Iterator[list[Run]]:
    """Yield the runs of `load_runs`; URLs are read too, and the files of their runs stay until the end.

    `pixels` are the kept images of runs, which URLs have otherwise no need to be read for.
    """
    with storage.local_copies(paths, pixels) as copies:
        yield load_runs(copies.paths, copies.named)


def load_runs(paths: Iterable[str | Path], named: Callable[[str], str] = str) -> list[Run]:
    """Read run directories and standard evaluations, and all finished ones in other folders, at any depth.

    The stages of a standard evaluation are no runs of their own, unless their folder is given. The runs are labelled by
    the names of their folders, or by the paths where two names are equal, as `named` writes them.
    """
    folders = [folder for path in paths for folder in _runs_in(Path(path))]
    if not folders:
        raise UserError("expected at least one run directory, got none")
    places = [folder.resolve() for folder in folders]
    twice = next((folder for i, folder in enumerate(folders) if places[i] in places[:i]), None)
    if twice is not None:
        raise UserError(f"the run {twice} is given twice")
    unique = len({place.name for place in places}) == len(places)
    return [load_any(folder, None if unique else named(str(folder))) for folder in folders]


def load_any(folder: Path, label: str | None = None) -> Run:
    """Read a run directory, or a standard evaluation as one run; its label is by default the name of the folder."""
    if not (folder / standard.FILE).exists():
        return load_run(folder, label)
    run = Standard.load(folder).combined
    return replace(run, label=shown(folder.resolve().name if label is None else label))


def _runs_in(folder: Path) -> list[Path]:
    """Return the finished runs in a folder, in order of their paths; the folder itself if it holds no finished run."""
    if any((folder / name).exists() for name in (*FILES, standard.FILE)):
        return [folder]
    try:
        runs = {path.parent for path in folder.rglob("summary.json")}
        standards = {path.parent for path in folder.rglob(standard.FILE)}
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    alone = {
        run for run in runs if not standards & {run, *run.parents} and all((run / name).is_file() for name in FILES)
    }
    return sorted(alone | {found for found in standards if not is_unfinished(found)}) or [folder]

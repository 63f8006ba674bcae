"""The state of every cell of a sweep, from the files of the sweep alone, as a table and as lines of JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from rfdlight.cli.sweep.cell_files import Log, is_running, read_log
from rfdlight.errors import UserError, shown
from rfdlight.records import progress, standard
from rfdlight.records.progress import Progress
from rfdlight.records.result import Result, result_of
from rfdlight.records.run_directory import FINGERPRINT
from rfdlight.reporting.tables import duration, is_known

State = Literal["finished", "running", "failed", "stopped", "queued"]
"""A stopped cell has begun, and no process runs it: it was stopped or killed, and will be resumed."""

_STYLES: dict[State, str] = {"finished": "green", "running": "bold", "failed": "red", "stopped": "yellow"}
_SHOWN_FIRST: tuple[State, ...] = ("running", "failed", "stopped", "queued", "finished")
_LONGEST = 200
"""Characters of a reason below the table."""

_FEW = 5
"""Reasons below a table of `most` cells."""


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """The state of one cell; a number that is not known is None, and shares are between 0 and 1.

    The images are those of the current stage of a standard evaluation, and the other numbers those of all its stages.
    """

    cell: str
    state: State
    attempts: int = 0
    host: str = ""  # of the last attempt
    reason: str = ""  # why the last attempt failed or was killed; of a finished cell: what failed in it
    images: int | None = None
    done: int | None = None  # images that are finished
    stage: int | None = None  # of a standard evaluation, from 1
    stages: int | None = None
    robust: float | None = None  # robust accuracy of a finished cell, with its 95 % interval
    robust_low: float | None = None
    robust_high: float | None = None
    clean: float | None = None  # clean accuracy of a finished cell
    robust_so_far: float | None = None  # of another cell
    queries_per_second: float | None = None  # of a running cell
    seconds_left: float | None = None  # at most: if no further attack succeeds
    updated: float | None = None  # time of the numbers of a cell that is not finished, in seconds since 1970


def states(folder: Path, cells: Iterable[str]) -> list[CellStatus]:
    """Return the state of each cell, by name, of the sweep in a folder; nothing is written."""
    return [_state(folder, cell) for cell in cells]


def _state(folder: Path, cell: str) -> CellStatus:
    # The lock comes first: a cell that finishes meanwhile then has its result.
    place, running = folder / cell, is_running(folder, cell)
    result, log = result_of(place), read_log(folder, cell)
    found = CellStatus(
        cell=shown(cell),
        state="queued",
        attempts=log.attempts,
        host=shown(log.begun.host) if log.begun else "",
        reason=shown(log.end.failed or log.end.killed) if log.end else "",
    )
    if result is not None:
        return _finished(found, result)
    if running or (log.begun and not log.end and is_running(folder, cell)):  # it may have begun after the first look
        return _with_progress(replace(found, state="running", reason=""), place, log)
    if log.end and log.end.failed and not log.end.stopped:
        return _with_progress(replace(found, state="failed"), place, log)
    if log.attempts or any((place / name).is_file() for name in (FINGERPRINT, standard.FILE)):
        return _with_progress(replace(found, state="stopped"), place, log)
    return found


def _finished(found: CellStatus, result: Result) -> CellStatus:
    found = replace(found, state="finished", images=result.size.images, done=result.size.images)
    if is_known(robust := result.robust):
        found = replace(found, robust=robust.value, robust_low=robust.low, robust_high=robust.high)
    return replace(found, clean=clean.value) if is_known(clean := result.clean) else found


def _with_progress(found: CellStatus, place: Path, log: Log) -> CellStatus:
    """Add how far a cell is that is not finished, by its last heartbeat."""
    try:
        settings = standard.settings_in(place)
    except UserError:
        beat, later, share = progress.read(place), 0, 1.0
    else:
        stages = len(settings.stages)
        number, beat = _last_stage(place, settings)
        found = replace(found, stage=number, stages=stages, images=settings.num_images, done=0)
        later = (stages - number) * beat.images * beat.budget if beat else 0
        # Images that an earlier stage found misclassified or adversarial are not robust.
        share = min(1.0, beat.images / settings.num_images) if beat and settings.num_images else 1.0
    if beat is None:
        return found
    so_far = None if beat.robust_so_far is None else beat.robust_so_far * share
    found = replace(found, images=beat.images, done=beat.done, robust_so_far=so_far, updated=beat.time)
    # A process that has just taken the lock has not written down its beginning.
    earlier = log.end is not None or (log.begun is not None and beat.time < log.begun.time)
    if found.state != "running" or earlier or not (beat.queries and beat.seconds):
        return found
    rate = beat.queries / beat.seconds
    return replace(found, queries_per_second=rate, seconds_left=(beat.queries_left + later) / rate)


def _last_stage(place: Path, settings: standard.Settings) -> tuple[int, Progress | None]:
    """Return the number of the last stage with a heartbeat, and the heartbeat; the first stage if none has one."""
    again = place / standard.RANDOM
    below = again if again.is_dir() else place
    for number, attack in reversed([*enumerate(settings.stages, 1)]):
        beat = progress.read(standard.stage_folder(below, number, attack))
        if beat is not None:
            return number, beat
    return 1, None


def status_lines(found: Iterable[CellStatus]) -> Iterator[str]:
    """Yield one line of JSON per cell: an object with the fields of `CellStatus`."""
    for status in found:
        yield msgspec.json.encode(status).decode()


def status_table(found: Sequence[CellStatus], most: int | None = None) -> Table:
    """Return a table with a row for each cell, and below it the totals and the reasons of failures.

    With `most`, it has at most `most` + 12 lines on a wide terminal: of more cells, those that run, have failed or were
    stopped come first, in the order of the sweep, and each of the first reasons has one line.
    """
    chosen = sorted(found, key=lambda status: _SHOWN_FIRST.index(status.state))[:most]
    kept = {id(status) for status in chosen}
    rows = [status for status in found if id(status) in kept]
    reasons = [_reason(status) for status in rows if status.reason]
    below = reasons if most is None else reasons[:_FEW]
    if len(below) < len(reasons):
        below.append(f"and {len(reasons) - len(below):,} more reasons")
    line = totals(found)
    caption = Text("\n".join([line, *below]), no_wrap=most is not None, overflow="fold" if most is None else "ellipsis")
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        min_width=len(line),  # a caption is as wide as its table
        caption=caption,
        caption_justify="left",
    )
    table.add_column("cell", overflow="fold", min_width=10)
    table.add_column("state", no_wrap=True)
    for column in ("images", "robust", "queries/s", "max left"):
        table.add_column(column, justify="right", no_wrap=True)
    for status in rows:
        table.add_row(*map(Text, _texts(status)), style=_STYLES.get(status.state, "dim"))
    if len(rows) < len(found):
        table.add_row(Text(f"and {len(found) - len(rows):,} more"), style="dim")
    return table


def totals(found: Sequence[CellStatus]) -> str:
    """Return the number of cells in each state, and the speed of all running cells together, as text."""
    counts = Counter(status.state for status in found)
    parts = [f"{counts[state]:,} {state}" for state in get_args(State) if counts[state]]
    rates = [status.queries_per_second for status in found if status.queries_per_second is not None]
    speed = f"; {sum(rates):,.0f} queries/s" if rates else ""
    return f"{len(found):,} cells: {', '.join(parts)}{speed}" if found else "no cells"


def _reason(status: CellStatus) -> str:
    """Return the reason of a failure, as a line below the table."""
    reason = status.reason if len(status.reason) <= _LONGEST else f"{status.reason[:_LONGEST]} ..."
    return f"{status.cell}: {reason}"


def _texts(status: CellStatus) -> list[str]:
    """Return the row of a cell."""
    images = "" if status.images is None else f"{status.done:,}/{status.images:,}"
    if status.stage is not None and status.state != "finished":
        images += f" in {status.stage}/{status.stages}"
    robust = status.robust if status.state == "finished" else status.robust_so_far
    rate, left = status.queries_per_second, status.seconds_left
    return [
        status.cell,
        status.state,
        images,
        "" if robust is None else f"{robust:.1%}",
        "" if rate is None else f"{rate:,.0f}",
        "" if left is None else duration(left),
    ]

"""What a run writes while it goes on, so that it can be gone on with after whatever ended it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from rfdlight.errors import UserError
from rfdlight.results.records import FIELDS, Record, in_order, read_records, seal, unseal
from rfdlight.results.summary import ROWS

FOLDER = "journal"
"""In a run directory; holds the files of every process of every attempt at the run.

`records-<attempt>-<rank>.jsonl` has the records since the last `records.jsonl`, `events-<attempt>-<rank>.jsonl` what
happened when: `start`, `image` for every record, and `end` with the rows that the victim saw."""

RECORDS = "records.jsonl"
"""In a run directory: all records so far, in order of id, written when an attempt ends."""


class Journal:
    """Writes down what one process of one attempt does, each line flushed as it comes.

    Args:
        run: The run directory.
        attempt: How often the run was begun before.
        rank: Of this process.

    Raises:
        UserError: If the files cannot be written.
    """

    def __init__(self, run: Path, attempt: int, rank: int = 0) -> None:
        self._records = _open(run / FOLDER / f"records-{attempt}-{rank}.jsonl")
        self._events = _open(run / FOLDER / f"events-{attempt}-{rank}.jsonl")
        self.event("start", host=socket.gethostname(), pid=os.getpid())

    def record(self, record: Record) -> None:
        """Append a record, and the event that it was finished."""
        _append(self._records, seal(record))
        self.event("image", id=record["id"])

    def event(self, name: str, **facts: Any) -> None:
        """Append an event, with the time in seconds since 1970."""
        _append(self._events, json.dumps({"event": name, "time": time.time(), **facts}))

    def close(self) -> None:
        """Close the files."""
        for file in (self._records, self._events):
            file.close()


@dataclass(frozen=True)
class Past:
    """What earlier attempts at a run have left.

    Attributes:
        records: Of the finished images, in order of id.
        damaged: Lines that were no record, or were cut off or changed after they were written.
        attempts: How many there were.
        killed: How many of them ended without a word.
        totals: Rows that the victim saw; of killed attempts, those for finished images alone.
        seconds: That the attempts took, as far as their events say.
    """

    records: list[Record]
    damaged: int
    attempts: int
    killed: int
    totals: Counter[str]
    seconds: float


NOTHING = Past([], 0, 0, 0, Counter(), 0.0)
"""The past of a run that was never begun."""


def lock(run: Path) -> FileLock:
    """Take a run directory for this process and its children, until the lock is released or the process ends.

    Raises:
        UserError: If another process has it, or it cannot be written.
    """
    held = FileLock(run / FOLDER / "lock", timeout=0)
    try:
        (run / FOLDER).mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout as error:
        raise UserError(
            f"{run} is being written by another process; wait for it, or give --run another folder"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write the run directory {run}: {error.strerror}") from error
    return held


def look_back(run: Path) -> Past:
    """Read what earlier attempts have left; what is damaged is counted and left out.

    Raises:
        UserError: If a file cannot be read, or `records.jsonl` is damaged, which was complete when it was written.
    """
    found = {record["id"]: record for record in read_records(run / RECORDS)} if (run / RECORDS).exists() else {}
    damaged = 0
    for path in _files(run, "records"):
        for line in _lines(path):
            record = _intact(line)
            if record is None:
                damaged += 1
            else:
                found.setdefault(record["id"], record)
    attempts = [_attempt(path, found) for path in _files(run, "events")]
    totals: Counter[str] = Counter()
    for attempt in attempts:
        totals.update(attempt.totals)
    return Past(
        in_order(found.values()),
        damaged,
        attempts=1 + max((int(path.stem.split("-")[1]) for path in _files(run, "events")), default=-1),
        killed=sum(not attempt.ended for attempt in attempts),
        totals=totals,
        seconds=sum(attempt.seconds for attempt in attempts),
    )


def conclude(run: Path, records: list[Record]) -> None:
    """Put all records so far into `records.jsonl`, in order of id, at once; the journal's are then dropped.

    Raises:
        UserError: If it cannot be written; the journal then still has them.
    """
    text = "".join(seal(record) + "\n" for record in in_order(records))
    partial = run / FOLDER / RECORDS
    try:
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(run / RECORDS)
    except OSError as error:
        raise UserError(f"cannot write {run / RECORDS}: {error.strerror}; {run / FOLDER} has the records") from error
    for path in _files(run, "records"):
        path.unlink()


@dataclass(frozen=True)
class _Attempt:
    totals: dict[str, int]
    seconds: float
    ended: bool


def _attempt(path: Path, records: dict[str, Record]) -> _Attempt:
    events = [event for event in map(_event, _lines(path)) if event is not None]
    ends = [event for event in events if event["event"] == "end"]
    seconds = max(0.0, events[-1]["time"] - events[0]["time"]) if events else 0.0
    if ends:
        return _Attempt(ends[-1]["totals"], seconds, ended=True)
    finished = [records[event["id"]] for event in events if event["event"] == "image" and event["id"] in records]
    totals = {kind: sum(record[kind] for record in finished) for kind in ROWS if kind in FIELDS}
    return _Attempt(totals, seconds, ended=False)


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
        known = {"start": (), "image": ("id",), "end": ("totals",)}[event["event"]]
        float(event["time"])
        return event if all(name in event for name in known) else None
    except (ValueError, KeyError, TypeError):
        return None


def _intact(line: str) -> Record | None:
    """Return the record of a line, None if it is damaged; here every line has a checksum."""
    try:
        record = unseal(line)
    except ValueError:
        return None
    return record if "crc32" in line and not FIELDS.keys() - record.keys() else None


def _files(run: Path, kind: str) -> list[Path]:
    return sorted((run / FOLDER).glob(f"{kind}-*-*.jsonl"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _open(path: Path) -> TextIO:
    try:
        return path.open("x")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _append(file: TextIO, line: str) -> None:
    try:
        file.write(line + "\n")
        file.flush()
    except OSError as error:
        raise UserError(f"cannot write {file.name}: {error.strerror}; what it has so far is kept") from error

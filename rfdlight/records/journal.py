"""What a run writes while it goes on, so that it can be gone on with after whatever ended it."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from rfdlight import _io
from rfdlight._io import parse_json, read_text
from rfdlight.errors import UserError
from rfdlight.records.records import (
    FIELDS,
    Record,
    current,
    evaluated_once,
    fault,
    in_order,
    read_records,
    seal,
    unseal,
)
from rfdlight.records.summary import ROWS

FOLDER = "journal"
"""In a run directory; holds the files of every process of every attempt at the run.

`records-<attempt>-<rank>.jsonl` has the records since the last `records.jsonl`, `events-<attempt>-<rank>.jsonl` what
happened when: `start`, `random` where the victim is judged as random from then on, `image` for every record, `failed`
for every image on which the victim failed, with the reason, and `end` with the rows that the victim saw, the rows of a
forward pass and the images under way."""

_SYNCED_EVERY = 1.0
"""Seconds: so much of the last work a power cut may take, besides the images under way."""

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
        self._synced = -math.inf
        self._records = _open(run / FOLDER / f"records-{attempt}-{rank}.jsonl")
        self._events = _open(run / FOLDER / f"events-{attempt}-{rank}.jsonl")
        self.event("start", host=socket.gethostname(), pid=os.getpid())

    def record(self, record: Record) -> None:
        """Append a record, and the event that it was finished."""
        _append(self._records, seal(record))
        self.event("image", id=record["id"])
        if time.monotonic() - self._synced >= _SYNCED_EVERY:
            self._sync()

    def failure(self, image_id: str, reason: str) -> None:
        """Append the event that the victim failed on an image."""
        self.event("failed", id=image_id, reason=reason)

    def random(self) -> None:
        """Append the event that the victim is judged as random from here on."""
        self.event("random")
        self._sync()

    def end(
        self, totals: dict[str, int], forwarded: int, batch_size: int, in_progress: tuple[int, int] = (0, 0)
    ) -> None:
        """Append the last event.

        Args:
            totals: Rows that the victim saw, by the ledger.
            forwarded: Rows that the victim saw, by a hook on it.
            batch_size: Rows of the last forward pass.
            in_progress: Images that were begun and not finished, and those of them that were robust so far.
        """
        begun, holding = in_progress
        self.event("end", totals=totals, forwarded=forwarded, batch_size=batch_size, begun=begun, holding=holding)
        self._sync()

    def _sync(self) -> None:
        """Have the disk take what the system holds, which a power cut would lose."""
        for file in (self._records, self._events):
            try:
                os.fsync(file.fileno())
            except OSError as error:
                if error.errno == errno.EINVAL:  # a file system that knows no such thing
                    continue
                raise UserError(f"cannot write {file.name}: {error.strerror}; what it has so far is kept") from error
        self._synced = time.monotonic()

    def event(self, name: str, **facts: Any) -> None:
        """Append an event, with the time in seconds since 1970."""
        _append(self._events, json.dumps({"event": name, "time": time.time(), **facts}))

    def close(self) -> None:
        """Close the files."""
        for file in (self._records, self._events):
            # What a full disk did not take is tried again here; that it was not taken has been said already.
            with suppress(OSError):
                file.close()


@dataclass(frozen=True)
class Past:
    """What the processes of all attempts at a run have left.

    Attributes:
        records: Of the finished images, in order of id.
        failed: The reason for each image on which the victim failed in the last attempt, by its id.
        damaged: Lines that were no record, or were cut off or changed after they were written.
        attempts: How many there were.
        killed: How many of them have a process that ended without a word.
        totals: Rows that the victim saw; of processes that ended without a word, those for finished images alone.
        forwarded: Rows that a hook on the victim saw, None if a process ended without a word.
        seconds: That the attempts took, as far as their events say.
        batch_size: Rows of the smallest forward pass, None if no process says it.
        random: Whether any of them found the victim random; records of single evaluations are then left out.
        in_progress: Images that the last attempt had begun and not finished, and those of them that were robust so far.
    """

    records: list[Record]
    failed: dict[str, str]
    damaged: int
    attempts: int
    killed: int
    totals: Counter[str]
    forwarded: int | None
    seconds: float
    batch_size: int | None
    random: bool = False
    in_progress: tuple[int, int] = (0, 0)


NOTHING = Past([], {}, 0, 0, 0, Counter(), None, 0.0, None, False)
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


def image_part(run: Path, attempt: int, rank: int) -> Path:
    """Return where one process of one attempt keeps the pixels of images."""
    return run / FOLDER / f"images-{attempt}-{rank}.safetensors"


def kept_images(run: Path) -> list[Path]:
    """Return where processes have kept the pixels of images."""
    return sorted((run / FOLDER).glob("images-*.safetensors"))


def look_back(run: Path) -> Past:
    """Read what earlier attempts have left; what is damaged is counted and left out.

    Raises:
        UserError: If a file cannot be read, or `records.jsonl` is damaged, which was complete when it was written.
    """
    events = {path: _events(path) for path in _files(run, "events")}
    random = any(event["event"] == "random" for happened in events.values() for event in happened)
    written = read_records(run / RECORDS) if (run / RECORDS).exists() else []
    damaged = 0
    for path in _files(run, "records"):
        for line in _lines(path):
            record = _intact(line)
            if record is None:
                damaged += 1
            else:
                written.append(record)
    found: dict[str, Record] = {}
    for record in written:
        if not (random and evaluated_once(record)):
            found.setdefault(record["id"], record)
    parts: dict[int, list[_Part]] = {}
    for path, happened in events.items():
        parts.setdefault(_attempt_of(path), []).append(_part(happened, found))
    all_parts = [part for attempt in parts.values() for part in attempt]
    totals: Counter[str] = Counter()
    for part in all_parts:
        totals.update(part.totals)
    last = parts[max(parts)] if parts else []
    failed = {image_id: reason for part in last for image_id, reason in part.failed.items() if image_id not in found}
    return Past(
        in_order(found.values()),
        dict(sorted(failed.items())),
        damaged,
        attempts=1 + max(map(_attempt_of, [*_files(run, "records"), *_files(run, "events")]), default=-1),
        killed=sum(not all(part.ended for part in attempt) for attempt in parts.values()),
        totals=totals,
        forwarded=_sum([part.forwarded for part in all_parts]),
        seconds=sum(max(part.seconds for part in attempt) for attempt in parts.values()),
        batch_size=min((part.batch_size for part in all_parts if part.batch_size is not None), default=None),
        random=random,
        in_progress=(sum(part.begun for part in last), sum(part.holding for part in last)),
    )


def _sum(counts: list[int | None]) -> int | None:
    """Return the sum, None if a count is missing."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def conclude(run: Path, records: list[Record]) -> None:
    """Put all records so far into `records.jsonl`, in order of id, at once; the journal's are then dropped.

    Raises:
        UserError: If it cannot be written; the journal then still has them.
    """
    text = "".join(seal(record) + "\n" for record in in_order(records))
    try:
        _io.write_file(run / RECORDS, text)
    except UserError as error:
        raise UserError(f"{error}; {run / FOLDER} has the records") from error
    for path in _files(run, "records"):
        path.unlink()


@dataclass(frozen=True)
class _Part:
    """What one process of one attempt has left."""

    totals: dict[str, int]
    failed: dict[str, str]
    seconds: float
    ended: bool
    forwarded: int | None = None
    batch_size: int | None = None
    begun: int = 0
    holding: int = 0


def _events(path: Path) -> list[dict[str, Any]]:
    return [event for event in map(_event, _lines(path)) if event is not None]


def _part(events: list[dict[str, Any]], records: dict[str, Record]) -> _Part:
    seconds = max(0.0, events[-1]["time"] - events[0]["time"]) if events else 0.0
    failed = {event["id"]: event["reason"] for event in events if event["event"] == "failed"}
    ends = [event for event in events if event["event"] == "end"]
    if ends:
        last = ends[-1]
        said = {name: last[name] for name in ("forwarded", "batch_size", "begun", "holding") if name in last}
        return _Part(last["totals"], failed, seconds, True, **said)
    finished = [records[event["id"]] for event in events if event["event"] == "image" and event["id"] in records]
    totals = {kind: sum(record[kind] for record in finished) for kind in ROWS if kind in FIELDS}
    return _Part(totals, failed, seconds, ended=False)


def _event(line: str) -> dict[str, Any] | None:
    """Return the event of a line, None if it is damaged."""
    try:
        event = parse_json(line)
        holds = {
            "start": lambda: True,
            "random": lambda: True,
            "image": lambda: isinstance(event["id"], str),
            "failed": lambda: isinstance(event["id"], str) and isinstance(event["reason"], str),
            "end": lambda: (
                all(isinstance(event["totals"][kind], int) for kind in ROWS)
                and all(isinstance(event.get(name), int | None) for name in ("forwarded", "batch_size"))
                and all(isinstance(event.get(name, 0), int) for name in ("begun", "holding"))
            ),
        }[event["event"]]
        return event if isinstance(event["time"], float) and math.isfinite(event["time"]) and holds() else None
    except (ValueError, KeyError, TypeError):
        return None


def _intact(line: str) -> Record | None:
    """Return the record of a line, None if it is damaged; here every line has a checksum."""
    try:
        record = unseal(line)
    except ValueError:
        return None
    return current(record) if "crc32" in line and fault(record) is None else None


def _attempt_of(path: Path) -> int:
    """Return the number of the attempt whose file this is, which its name holds."""
    return int(path.stem.split("-")[1])


def _files(run: Path, kind: str) -> list[Path]:
    """Return the files of a kind, in order of attempt and process."""
    named = re.compile(rf"{kind}-(\d+)-(\d+)\.jsonl", re.ASCII)
    found = [(match, path) for path in (run / FOLDER).glob(f"{kind}-*") if (match := named.fullmatch(path.name))]
    return [path for *_, path in sorted((int(match[1]), int(match[2]), path) for match, path in found)]


def _lines(path: Path) -> list[str]:
    try:
        return read_text(path, errors="replace").splitlines()
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

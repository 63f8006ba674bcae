"""The journal of a run: each process appends its records and events, and a resumed run reads the journals of all."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from msgspec import Meta
from msgspec.structs import asdict

from rfdlight import _io
from rfdlight._io import read_bytes
from rfdlight.errors import UserError
from rfdlight.records.facts import ROWS, InProgress, Rows
from rfdlight.records.records import Record, in_order, read_records
from rfdlight.records.schema import Count, Fields, seal, unseal

FOLDER = "journal"
"""In a run directory: `<attempt>-<rank>.jsonl` holds the sealed entries of one process of one attempt."""

RECORDS = "records.jsonl"
"""In a run directory: all records so far, in order of id, written when an attempt ends."""

_NAME = re.compile(r"(\d{1,9})-(\d{1,9})\.jsonl", re.ASCII)

_SYNCED_EVERY = 1.0
"""Seconds of work that a power cut may lose, besides the unfinished images."""


class End(Fields, frozen=True, kw_only=True):
    """The last entry of a process.

    Attributes:
        totals: Rows that the victim saw, by the query ledger.
        forwarded: Rows that the victim saw, by a hook on it.
        batch_size: Rows of the last forward pass.
        in_progress: Images that are begun and not finished.
    """

    totals: Rows
    forwarded: Count
    batch_size: Count
    in_progress: InProgress


class Entry(Fields, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a journal.

    Attributes:
        time: In seconds since 1970.
        process: Host name and process id, in the first entry.
        record: Of an image that is finished.
        failed: Id of an image on which the victim failed, and the reason.
        random: Whether the victim is found to be random.
        end: Only in the last entry of a process that was not killed.
    """

    time: Annotated[float, Meta(ge=0, lt=2**40)]
    process: tuple[str, int] | None = None
    record: Record | None = None
    failed: tuple[str, str] | None = None
    random: bool = False
    end: End | None = None


class Journal:
    """Appends the entries of one process of one attempt, each flushed as it comes.

    Args:
        run: The run directory.
        attempt: Number of the attempt, from 0.
        rank: Rank of the process.

    Raises:
        UserError: The file cannot be written.
    """

    def __init__(self, run: Path, attempt: int, rank: int = 0) -> None:
        path = run / FOLDER / f"{attempt}-{rank}.jsonl"
        self._synced = 0.0
        try:
            self._file = path.open("xb")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        self.append(process=(socket.gethostname(), os.getpid()))

    def append(self, **content: Any) -> None:
        """Append an entry; at most once a second, and after rare entries, the disk stores what was appended.

        Args:
            content: Fields of `Entry` without the time.

        Raises:
            UserError: The file cannot be written.
        """
        try:
            self._file.write(seal(Entry(time=time.time(), **content)) + b"\n")
            self._file.flush()
            if "record" not in content or time.monotonic() - self._synced >= _SYNCED_EVERY:
                self._sync()
        except OSError as error:
            name = self._file.name
            raise UserError(f"cannot write {name}: {error.strerror}; earlier records are kept") from error

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno != errno.EINVAL:  # of a file system without fsync
                raise
        self._synced = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        # Closing writes again what a full disk has refused, and `append` has reported the error.
        with suppress(OSError):
            self._file.close()


@dataclass(frozen=True)
class Past:
    """The results of all attempts at a run so far.

    Attributes:
        records: Of the finished images, in order of id.
        random: Whether a process found the victim random; records of single evaluations are then left out.
        facts: The fields of `RunFacts` that the attempts decide. Failed images and images in progress are those of the
            last attempt; `totals` has the rows for finished images alone for each process that was killed.
    """

    records: list[Record]
    random: bool
    facts: dict[str, Any]


def lock(run: Path) -> FileLock:
    """Lock a run directory for this process, until the lock is released or the process ends.

    Raises:
        UserError: Another process holds the lock, or the directory cannot be written.
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


def read_past(run: Path) -> Past:
    """Read the records and the journals of all attempts; damaged lines of journals are counted and left out.

    Of two records of one image the first counts.

    Raises:
        UserError: A file cannot be read, or `records.jsonl`, which is written at once, is damaged.
    """
    journals, damaged = _read_journals(run)
    entries = [entry for journal in journals.values() for entry in journal]
    random = any(entry.random for entry in entries)
    written = read_records(run / RECORDS) if (run / RECORDS).exists() else []
    written += [entry.record for entry in entries if entry.record is not None]
    found: dict[str, Record] = {}
    for record in written:
        if not (random and record.evaluated_once):
            found.setdefault(record.id, record)
    last = max((attempt for attempt, _ in journals), default=-1)
    ends = {key: next((entry.end for entry in reversed(journals[key]) if entry.end), None) for key in journals}
    ended = [end for end in ends.values() if end is not None]
    in_progress = [end.in_progress for (attempt, _), end in ends.items() if end is not None and attempt == last]
    failed = [entry.failed for (attempt, _), journal in journals.items() if attempt == last for entry in journal]
    seconds: dict[int, float] = {}
    for (attempt, _), journal in journals.items():
        times = [entry.time for entry in journal] or [0.0]
        seconds[attempt] = max(seconds.get(attempt, 0.0), max(times) - min(times))
    facts = {
        "failed": dict(sorted(each for each in failed if each is not None and each[0] not in found)),
        "damaged_lines": damaged,
        "attempts": last + 1,
        "killed_attempts": len({attempt for (attempt, _), end in ends.items() if end is None}),
        "totals": sum((end.totals if end else _finished(journals[key]) for key, end in ends.items()), Rows()),
        "forwarded": sum(end.forwarded for end in ended) if len(ended) == len(ends) else None,
        "wall_seconds": sum(seconds.values()),
        "batch_size_used": min((end.batch_size for end in ended), default=None),
        "in_progress": InProgress(
            begun=sum(each.begun for each in in_progress), robust=sum(each.robust for each in in_progress)
        ),
    }
    return Past(in_order(found.values()), random, facts)


def _finished(journal: list[Entry]) -> Rows:
    """Return the rows for the finished images of a process that was killed."""
    records = [entry.record for entry in journal if entry.record is not None]
    return Rows(**{kind: sum(asdict(record)[kind] for record in records) for kind in ROWS if kind != "padding"})


def _read_journals(run: Path) -> tuple[dict[tuple[int, int], list[Entry]], int]:
    """Return the entries by attempt and rank, and the number of damaged lines."""
    named = [(match, path) for path in (run / FOLDER).glob("*.jsonl") if (match := _NAME.fullmatch(path.name))]
    journals: dict[tuple[int, int], list[Entry]] = {}
    damaged = 0
    for key, path in sorted((((int(match[1]), int(match[2]))), path) for match, path in named):
        journal = journals.setdefault(key, [])
        try:
            lines = read_bytes(path).splitlines()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        for line in lines:
            try:
                journal.append(unseal(line, Entry))
            except ValueError:
                damaged += 1
    return journals, damaged


def write_records(run: Path, records: list[Record]) -> None:
    """Write all records so far to `records.jsonl`, at once, in order of id.

    Raises:
        UserError: The file cannot be written; the journal still has the records.
    """
    try:
        _io.write_file(run / RECORDS, b"".join(seal(record) + b"\n" for record in in_order(records)))
    except UserError as error:
        raise UserError(f"{error}; {run / FOLDER} has the records") from error

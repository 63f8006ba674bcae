"""The journal of a run: each process appends its results, and a resumed run reads the journals of all."""

from __future__ import annotations

import errno
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from msgspec import Meta
from msgspec.structs import asdict

from rfdlight._io import read_bytes, write_file
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
    """The last entry of a process that was not killed."""

    totals: Rows  # by the query ledger
    forwarded: Count  # rows that a hook on the victim counted
    batch_size: Count  # rows of the last forward pass
    in_progress: InProgress


class Entry(Fields, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a journal; the first line of a process has its time alone."""

    time: Annotated[float, Meta(ge=0, lt=2**40)]  # seconds since 1970
    record: Record | None = None
    failed: tuple[str, str] | None = None  # id of an image, and why the victim failed on it
    random: bool = False  # the victim is random: records of single evaluations are void
    end: End | None = None
    sanity_checks: Count | None = None  # rows of those that follow the end of process 0: 0 as they begin, then all


class Journal:
    """Appends the entries of one process of one attempt to a file, each flushed as it comes."""

    def __init__(self, run: Path, attempt: int, rank: int = 0) -> None:
        path = run / FOLDER / f"{attempt}-{rank}.jsonl"
        self._synced = 0.0
        try:
            self._file = path.open("xb")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        self.append(Entry(time=time.time()))

    def append(self, entry: Entry) -> None:
        """Append an entry; the disk stores records at most once a second, and other entries at once."""
        try:
            self._file.write(seal(entry) + b"\n")
            self._file.flush()
            if entry.record is None or time.monotonic() - self._synced >= _SYNCED_EVERY:
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
    """The results of all attempts at a run so far; `facts` are the fields of `RunFacts` that the attempts decide.

    Failed images and images in progress are those of the last attempt. `totals` has the rows for finished images alone
    of each process that was killed.
    """

    records: list[Record]
    random: bool
    facts: dict[str, Any]


NOTHING = Past([], False, {"attempts": 0})
"""The results of a run that has not begun."""


def lock(run: Path) -> FileLock:
    """Lock a run directory for this process, until the lock is released or the process ends."""
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
    """Combine the records and the journals of all attempts; damaged lines of journals are counted and left out."""
    journals: dict[tuple[int, int], list[Entry]] = defaultdict(list)
    damaged = 0
    for path in sorted((run / FOLDER).glob("*.jsonl")):
        named = _NAME.fullmatch(path.name)
        if named is None:
            continue
        journal = journals[int(named[1]), int(named[2])]
        try:
            lines = read_bytes(path).splitlines()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        for line in lines:
            try:
                journal.append(unseal(line, Entry))
            except ValueError:
                damaged += 1
    written = read_records(run / RECORDS) if (run / RECORDS).exists() else []
    return combine(dict(sorted(journals.items())), written, damaged)


def combine(journals: Mapping[tuple[int, int], list[Entry]], written: Iterable[Record] = (), damaged: int = 0) -> Past:
    """Combine the journals by attempt and rank with written records; the first record of an image counts."""
    entries = [entry for journal in journals.values() for entry in journal]
    random = any(entry.random for entry in entries)
    records: dict[str, Record] = {}
    for record in [*written, *_records(entries)]:
        if not (random and record.evaluated_once):
            records.setdefault(record.id, record)
    ends = {key: next((entry.end for entry in journal if entry.end), None) for key, journal in journals.items()}
    ended = [end for end in ends.values() if end is not None]
    seconds: dict[int, float] = defaultdict(float)
    for (attempt, _), journal in journals.items():
        times = [entry.time for entry in journal if entry.sanity_checks is None] or [0.0]
        seconds[attempt] = max(seconds[attempt], max(times) - min(times))
    last = max(seconds, default=-1)
    failed = [entry.failed for key, journal in journals.items() if key[0] == last for entry in journal if entry.failed]
    in_progress = [end.in_progress for key, end in ends.items() if key[0] == last and end is not None]
    checks = {
        key: [entry.sanity_checks for entry in journal if entry.sanity_checks is not None]
        for key, journal in journals.items()
    }
    checked = sum(map(sum, checks.values()))
    killed = {key for key, end in ends.items() if end is None or len(checks[key]) % 2}
    facts = {
        "failed": dict(sorted(each for each in failed if each[0] not in records)),
        "damaged_lines": damaged,
        "attempts": last + 1,
        "killed_attempts": len({attempt for attempt, _ in killed}),
        "totals": sum(
            (end.totals if end else _finished(journals[key]) for key, end in ends.items()), Rows(checks=checked)
        ),
        "forwarded": None if killed else checked + sum(end.forwarded for end in ended),
        "wall_seconds": sum(seconds.values()),
        "batch_size_used": min((end.batch_size for end in ended), default=None),
        "in_progress": InProgress(
            begun=sum(each.begun for each in in_progress), robust=sum(each.robust for each in in_progress)
        ),
    }
    return Past(in_order(records.values()), random, facts)


def _records(entries: Iterable[Entry]) -> list[Record]:
    return [entry.record for entry in entries if entry.record is not None]


def _finished(journal: list[Entry]) -> Rows:
    """Return the rows for the finished images of a process that was killed."""
    counts = [asdict(record) for record in _records(journal)]
    return Rows(**{kind: sum(count[kind] for count in counts) for kind in ROWS if kind in Record.__struct_fields__})


def write_records(run: Path, records: list[Record]) -> None:
    """Write all records so far to `records.jsonl`, at once, in order of id."""
    write_file(run / RECORDS, b"".join(seal(record) + b"\n" for record in in_order(records)))

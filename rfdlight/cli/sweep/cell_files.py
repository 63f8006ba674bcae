"""The files of a sweep's cells: which cells are running, and what every attempt came to.

The folder of a sweep is all that the processes of a sweep share. Each cell has a lock, which its process holds while it
runs and which the operating system releases when the process ends, and a log of its attempts.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from msgspec import Meta

from rfdlight._io import read_bytes
from rfdlight.errors import UserError
from rfdlight.records import journal
from rfdlight.records.schema import Fields, seal, unseal

FOLDER = ".cells"
"""In the folder of a sweep: the lock and the log of each cell."""

_PATIENCE = 2.0
"""Seconds that a process waits for the lock of a cell, which a look at the state of a sweep holds for an instant."""


class Entry(Fields, frozen=True, kw_only=True):
    """One line in the log of a cell: an attempt that begins, or its end."""

    time: Annotated[float, Meta(ge=0, lt=2**40)]  # seconds since 1970
    host: str
    process: int
    ended: bool = False
    failed: str = ""  # why the attempt failed
    stopped: bool = False  # by Ctrl-C or SIGTERM
    killed: str = ""  # how a process of the cell's own was killed
    anew: str = ""  # why an earlier attempt could not be resumed


@dataclass(frozen=True)
class Log:
    """The log of a cell: how many attempts began, and the last one's beginning and end."""

    attempts: int = 0
    begun: Entry | None = None
    end: Entry | None = None  # None if the attempt runs, or its process was killed


def finished_images(place: Path) -> int:
    """Return the number of finished images in the journals of a cell, over all stages of a standard evaluation.

    The heartbeat, which is faster to read, may miss those of the last two seconds before a kill.
    """
    folders = {path.parent.parent for path in place.rglob(f"{journal.FOLDER}/*.jsonl")}
    return sum(len(journal.read_past(folder).records) for folder in folders)


@contextmanager
def held(folder: Path, cell: str) -> Iterator[bool]:
    """Lock a cell for this process; False if another process runs it."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / FOLDER / f"{cell}.lock", timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_running(folder: Path, cell: str) -> bool:
    """Return whether some process runs a cell.

    The lock is shared for an instant with all others who look, and can be looked at by those who may not write.
    """
    try:
        file = os.open(folder / FOLDER / f"{cell}.lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # also of a file system without such locks, where a lock that is held is a file that exists
        return True
    finally:
        os.close(file)
    return False


def note(folder: Path, cell: str, **content: Any) -> None:
    """Append the beginning or the end of an attempt to the log of a cell, with fields of `Entry`."""
    entry = Entry(time=time.time(), host=socket.gethostname(), process=os.getpid(), **content)
    path = _log(folder, cell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(b"\n" + seal(entry) + b"\n")  # the last line may be a cut one
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def read_log(folder: Path, cell: str) -> Log:
    """Read the log of a cell; lines that a kill or a full disk has cut are left out, and a log that nobody can read."""
    try:
        lines = read_bytes(_log(folder, cell)).splitlines()
    except OSError:
        return Log()
    log = Log()
    for line in lines:
        try:
            entry = unseal(line, Entry)
        except ValueError:
            continue
        log = Log(log.attempts, log.begun, entry) if entry.ended else Log(log.attempts + 1, entry)
    return log


def _log(folder: Path, cell: str) -> Path:
    return folder / FOLDER / f"{cell}.jsonl"

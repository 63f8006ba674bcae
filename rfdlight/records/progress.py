"""The heartbeat of a run directory: how far its attack is, in one small file that is replaced every few seconds."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from rfdlight._io import read_bytes, write_file
from rfdlight.errors import UserError
from rfdlight.records import journal
from rfdlight.records.schema import Count, Fields, Size, decode

FILE = f"{journal.FOLDER}/progress.json"
"""In a run directory: the heartbeat. It is no journal: no result is read from it."""


class Progress(Fields, frozen=True, kw_only=True):
    """The progress of a run, over all of its processes."""

    time: Annotated[float, Meta(ge=0, lt=2**40)]  # seconds since 1970
    images: Count
    budget: Count  # queries per image
    done: Count  # images that are finished, or on which the victim failed
    robust_so_far: Annotated[float, Meta(ge=0, le=1)] | None  # share of the images begun
    queries: Count  # of this attempt at the run
    seconds: Size  # since the attack of this attempt began
    queries_left: Count  # at most


def write(run: Path, progress: Progress) -> None:
    """Replace the heartbeat of a run; a folder in which no file can be written keeps its last one."""
    with suppress(UserError):
        write_file(run / FILE, msgspec.json.encode(progress) + b"\n", durable=False)


def read(run: Path) -> Progress | None:
    """Read the heartbeat of a run; None if there is none, or a damaged one."""
    try:
        return decode(read_bytes(run / FILE), Progress)
    except (OSError, ValueError):
        return None

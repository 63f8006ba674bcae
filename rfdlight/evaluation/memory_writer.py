"""Results of an evaluation that writes no files."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from rfdlight.records import journal
from rfdlight.records.facts import InProgress, Rows
from rfdlight.records.records import Record, in_order


class MemoryWriter:
    """Keeps records and final points of one process in memory, with the methods of `run_writer.RunWriter`."""

    folder = None
    attempt = 0
    found_random = False

    def __init__(self) -> None:
        self.past = journal.Past([], False, {"attempts": 0})
        self.points: dict[str, Tensor] = {}
        self.finished: list[str] = []
        self.begun: dict[str, Any] = {}
        self._records: list[Record] = []
        self._failed: dict[str, str] = {}
        self._random = False
        self._began = time.monotonic()

    def record(self, record: Record) -> None:
        """Keep the record of an image."""
        self._records.append(record)

    def failure(self, image_id: str, reason: str) -> None:
        """Keep the reason for which the victim failed on an image."""
        self._failed[image_id] = reason

    def random(self) -> None:
        """Drop the records of single evaluations and their points: the victim is random."""
        self._random = True
        self._records.clear()
        self.points.clear()

    def point(self, image_id: str, clean: Tensor, final: Tensor) -> None:
        """Keep the final point of an image, (C, H, W)."""
        self.points[image_id] = final.clone()

    def end(
        self,
        totals: dict[str, int],
        forwarded: int,
        batch_size: int,
        in_progress: tuple[int, int],
        waiting: Callable[[], Any] = lambda: None,
    ) -> None:
        """Conclude the evaluation; see `RunWriter.end`."""
        begun, robust = in_progress
        facts = {
            "failed": dict(sorted(self._failed.items())),
            "totals": Rows(**totals),
            "forwarded": forwarded,
            "batch_size_used": batch_size,
            "wall_seconds": time.monotonic() - self._began,
            "attempts": 1,
            "in_progress": InProgress(begun=begun, robust=robust),
        }
        self.past = journal.Past(in_order(self._records), self._random, facts)

"""The run directory while a run is under way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rfdlight.errors import UserError
from rfdlight.protocol import identity
from rfdlight.results import journal
from rfdlight.results.records import Record


class RunBook:
    """Keeps what a run has finished, in memory and in its directory, over all attempts at it.

    Args:
        folder: The run directory.
        resume: Whether it holds a run that is gone on with; it is then taken at once, else by `begin`.

    Attributes:
        past: What earlier attempts have left.
        records: Of all images that are finished, this attempt's behind the earlier ones'.

    Raises:
        UserError: If another process writes there, or there is nothing to go on with.
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        self.folder = folder
        self.resume = resume
        self.past = journal.NOTHING
        self._open = ExitStack()
        if resume:
            identity.read(folder)  # before the lock makes a folder
            self._open.callback(journal.lock(folder).release)
            self.past = journal.look_back(folder)
        self.records: list[Record] = list(self.past.records)
        self._known = {record["id"] for record in self.records}
        self._journal: journal.Journal | None = None

    def begin(
        self, now: dict[str, Any], totals: Callable[[], dict[str, int]], on_ready: Callable[[], None] = lambda: None
    ) -> None:
        """Take the directory, if that is still to be done, and open this attempt's journal; nothing was written before.

        Args:
            now: The identity of what is about to run.
            totals: Says at the end what rows the victim saw in this attempt.
            on_ready: Called when the directory is this run's and before it counts as begun.

        Raises:
            UserError: If the directory holds another run, or another process writes there.
        """
        if self.resume:
            identity.check_same(self.folder, now)
            on_ready()
        else:
            self._open.callback(journal.lock(self.folder).release)
            if (self.folder / identity.FILE).exists() or (self.folder / journal.RECORDS).exists():
                raise UserError(
                    f"{self.folder} already holds another run; give --run another folder, or go on with it: --resume"
                )
            on_ready()
            identity.write(self.folder, now)
        self._journal = journal.Journal(self.folder, self.past.attempts)
        self._totals = totals

    def add(self, record: Record) -> None:
        """Take the record of an image that was just finished; of one that an earlier attempt finished, that stays."""
        if self._journal is None:
            raise ValueError("begin the run first")
        if record["id"] in self._known:
            return
        self._known.add(record["id"])
        self._journal.record(record)
        self.records.append(record)

    def close(self) -> None:
        """Write `records.jsonl` and let the directory go."""
        with self._open:
            if self._journal is not None:
                self._journal.event("end", totals=self._totals())
                self._journal.close()
                self._journal = None
                journal.conclude(self.folder, self.records)

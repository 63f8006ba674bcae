"""Writes a run directory: one journal per process and attempt, and the records and images of all at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from rfdlight.errors import UserError
from rfdlight.evaluation import fingerprint
from rfdlight.evaluation.processes import Processes
from rfdlight.records import images, journal
from rfdlight.records.facts import InProgress, Rows
from rfdlight.records.records import Record


class RunWriter:
    """Writes the results of a run, over all of its processes and attempts.

    Process 0 locks the directory, sends its path and the finished images of earlier attempts to the other processes,
    and at the end writes the records of all processes. Each process writes files of its own.

    Args:
        planned: The run directory, as process 0 knows it.
        resume: Whether the directory holds a run to resume, which is locked at once; else `begin` locks it.
        processes: The processes of the run.

    Attributes:
        folder: The run directory.
        past: The results of all attempts: before this one, and after `end` with it. In process 0 alone.
        attempt: Number of this attempt, from 0.
        finished: Ids of the images that earlier attempts have finished.
        found_random: Whether an earlier attempt has found the victim random.
        begun: The fingerprint that earlier attempts have written, empty for a new run. In process 0 alone.

    Raises:
        UserError: Another process holds the directory, or it has no run to resume.
    """

    def __init__(self, planned: Path, resume: bool, processes: Processes) -> None:
        self.past = journal.Past([], False, {"attempts": 0})
        self.begun: dict[str, Any] = {}
        self._resume = resume
        self._processes = processes
        self._lock: FileLock | None = None
        self._journal: journal.Journal | None = None
        if processes.leads:
            if resume:
                self.begun = fingerprint.read(planned)  # before the lock makes a folder
                self._lock = journal.lock(planned)
                self.past = journal.read_past(planned)
            finished = [record.id for record in self.past.records]
            processes.publish("run", [str(planned.absolute()), self.past.facts["attempts"], finished, self.past.random])
        folder, self.attempt, self.finished, self.found_random = processes.wait_for("run")
        self.folder = planned if processes.leads else Path(folder)

    def begin(
        self,
        now: dict[str, Any],
        on_ready: Callable[[], None] = lambda: None,
        kept: tuple[list[str], int] = ([], 0),
    ) -> None:
        """Lock the directory of a new run, and open this process's journal; nothing is written before.

        Args:
            now: The fingerprint of this run, see `rfdlight.evaluation.fingerprint`.
            on_ready: Called in process 0 when the directory is locked and before the run counts as begun.
            kept: Ids of the images that are attacked, and the number of images whose pixels are kept.

        Raises:
            UserError: The directory holds another run, another process holds it, it cannot be written, or a process
                has another fingerprint than process 0.
        """
        if self._processes.leads:
            self._take(now, on_ready, kept[0])
            self._processes.publish("begun", True)
        else:
            self._processes.wait_for("begun")
            fingerprint.check_same(self.folder, now)
        mine = self.attempt, self._processes.rank
        self._images = images.KeptImages(*kept, images.part(self.folder, *mine))
        self._journal = journal.Journal(self.folder, *mine)

    def _take(self, now: dict[str, Any], on_ready: Callable[[], None], ids: list[str]) -> None:
        if self._resume:
            fingerprint.check_same(self.folder, now)
            strange = sorted(set(self.finished) - set(ids))
            if strange:
                raise fingerprint.mixed(self.folder, f"it has a record of {strange[0]}, which is no image of the run")
            on_ready()
            return
        self._lock = journal.lock(self.folder)
        if (self.folder / fingerprint.FILE).exists() or (self.folder / journal.RECORDS).exists():
            raise UserError(f"{self.folder} already holds another run; give --run another folder, or resume: --resume")
        on_ready()
        fingerprint.write(self.folder, now)

    def record(self, record: Record) -> None:
        """Write the record of a finished image."""
        self._append(record=record)

    def failure(self, image_id: str, reason: str) -> None:
        """Write that the victim failed on an image."""
        self._append(failed=(image_id, reason))

    def random(self) -> None:
        """Write that the victim is random, which makes all records of single evaluations void."""
        self._append(random=True)

    def point(self, image_id: str, clean: Tensor, final: Tensor) -> None:
        """Keep the pixels of an image, (C, H, W) both, if it is one of the kept images."""
        self._images(image_id, clean, final)

    def end(
        self,
        totals: dict[str, int],
        forwarded: int,
        batch_size: int,
        in_progress: tuple[int, int],
        waiting: Callable[[], Any] = lambda: None,
    ) -> None:
        """Close this process's journal; process 0 waits for the others, and writes the records of all.

        Args:
            totals: Rows that the victim saw, by the query ledger.
            forwarded: Rows that a hook on the victim counted.
            batch_size: Rows of the last forward pass.
            in_progress: Images that are begun and not finished, and how many of them are robust so far.
            waiting: Called repeatedly while process 0 waits.
        """
        under_way = InProgress(begun=in_progress[0], robust=in_progress[1])
        last = journal.End(totals=Rows(**totals), forwarded=forwarded, batch_size=batch_size, in_progress=under_way)
        try:
            self._append(end=last).close()
        except UserError as error:
            self._processes.report_failure(error)
            raise
        finally:
            self._journal = None
            try:
                self._processes.leave(waiting)
            finally:
                if self._processes.leads:
                    self.past = journal.read_past(self.folder)
                    journal.write_records(self.folder, self.past.records)
                    images.gather(self.folder)

    def close(self) -> None:
        """Unlock the directory."""
        if self._lock is not None:
            self._lock.release()

    def _append(self, **content: Any) -> journal.Journal:
        if self._journal is None:
            raise ValueError("begin the run first")
        self._journal.append(**content)
        return self._journal

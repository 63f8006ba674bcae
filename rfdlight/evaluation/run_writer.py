"""What a run writes down in its directory."""

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
from rfdlight.records.records import Record


class RunWriter:
    """Keeps what a run has finished, over all of its processes and all attempts at it.

    Process 0 takes the directory, tells the others where it is and what earlier attempts have finished, and at the end
    puts together what all have written. Each process writes files of its own.

    Args:
        planned: The run directory, as process 0 knows it.
        resume: Whether it holds a run that is gone on with; it is then taken at once, else by `begin`.
        processes: Of the run.

    Attributes:
        folder: The run directory.
        past: What all attempts have left: before this one, and after `end` with it. In process 0 alone.
        attempt: How often the run was begun before.
        finished: Ids of the images that earlier attempts have finished.
        found_random: Whether an earlier attempt has found the victim random.
        begun: The identity that earlier attempts have written, empty for a new run. In process 0 alone.

    Raises:
        UserError: If another process has the directory, or there is nothing to go on with.
    """

    def __init__(self, planned: Path, resume: bool, processes: Processes) -> None:
        self.past = journal.NOTHING
        self.begun: dict[str, Any] = {}
        self._resume = resume
        self._processes = processes
        self._lock: FileLock | None = None
        self._journal: journal.Journal | None = None
        if processes.leads:
            if resume:
                self.begun = fingerprint.read(planned)  # before the lock makes a folder
                self._lock = journal.lock(planned)
                self.past = journal.look_back(planned)
            finished = [record["id"] for record in self.past.records]
            processes.tell("run", [str(planned.absolute()), self.past.attempts, finished, self.past.random])
        folder, self.attempt, self.finished, self.found_random = processes.hear("run")
        self.folder = planned if processes.leads else Path(folder)

    def begin(
        self,
        now: dict[str, Any],
        on_ready: Callable[[], None] = lambda: None,
        kept: tuple[list[str], int] = ([], 0),
    ) -> None:
        """Take the directory, if that is still to be done, and open this process's files; nothing was written before.

        Args:
            now: The identity of what is about to run, see `rfdlight.evaluation.fingerprint`.
            on_ready: Called in process 0 when the directory is this run's and before it counts as begun.
            kept: Ids of the images that are attacked, and of how many the pixels are kept.

        Raises:
            UserError: If the directory holds another run, another process has it, or it cannot be written; and in the
                other processes, if they would not run what process 0 runs.
        """
        if self._processes.leads:
            self._take(now, on_ready, kept[0])
            self._processes.tell("begun", True)
        else:
            self._processes.hear("begun")
            fingerprint.check_same(self.folder, now)
        mine = self.attempt, self._processes.rank
        self._images = images.KeptImages(*kept, journal.image_part(self.folder, *mine))
        self._journal = journal.Journal(self.folder, *mine)

    def _take(self, now: dict[str, Any], on_ready: Callable[[], None], ids: list[str]) -> None:
        if self._resume:
            fingerprint.check_same(self.folder, now)
            strange = sorted(set(self.finished) - set(ids))
            if strange:
                raise fingerprint.mixed(self.folder, f"it has a record of {strange[0]}, which is none of its images")
            on_ready()
            return
        self._lock = journal.lock(self.folder)
        if (self.folder / fingerprint.FILE).exists() or (self.folder / journal.RECORDS).exists():
            raise UserError(
                f"{self.folder} already holds another run; give --run another folder, or go on with it: --resume"
            )
        on_ready()
        fingerprint.write(self.folder, now)

    def record(self, record: Record) -> None:
        """Write down an image that was just finished."""
        self._opened.record(record)

    def failure(self, image_id: str, reason: str) -> None:
        """Write down that the victim fails on an image."""
        self._opened.failure(image_id, reason)

    def random(self) -> None:
        """Write down that the victim is random, which makes all records of single evaluations void."""
        self._opened.random()

    def point(self, image_id: str, clean: Tensor, final: Tensor) -> None:
        """Keep the pixels of an image, (C, H, W) both, if it is one of those that are kept."""
        self._images(image_id, clean, final)

    def end(
        self,
        totals: dict[str, int],
        forwarded: int,
        batch_size: int,
        in_progress: tuple[int, int],
        waiting: Callable[[], Any] = lambda: None,
    ) -> None:
        """Close this process's files; process 0 waits for the others, and puts all together.

        Args:
            totals: Rows that the victim saw, by the ledger.
            forwarded: How many a hook on the victim saw.
            batch_size: Of the last forward pass.
            in_progress: Images that were begun and not finished, and those of them that were robust so far.
            waiting: Called again and again while process 0 waits.
        """
        try:
            self._opened.end(totals, forwarded, batch_size, in_progress)
            self._opened.close()
        except UserError as error:
            self._processes.fail(error)
            raise
        finally:
            self._journal = None
            try:
                self._processes.leave(waiting)
            finally:
                if self._processes.leads:
                    self._put_together()

    def _put_together(self) -> None:
        self.past = journal.look_back(self.folder)
        journal.conclude(self.folder, self.past.records)
        images.gather(self.folder, journal.kept_images(self.folder))

    def close(self) -> None:
        """Let the directory go."""
        if self._lock is not None:
            self._lock.release()

    @property
    def _opened(self) -> journal.Journal:
        if self._journal is None:
            raise ValueError("begin the run first")
        return self._journal

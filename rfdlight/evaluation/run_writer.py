"""Writers of the results of an evaluation, in memory or in a run directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rfdlight.core.row_counter import RowCounter
from rfdlight.errors import UserError
from rfdlight.evaluation import fingerprint
from rfdlight.evaluation.interface import Heartbeat
from rfdlight.evaluation.processes import Processes
from rfdlight.records import images, journal, standard
from rfdlight.records.journal import End, Entry, Past


class MemoryWriter:
    """Keeps the results of an evaluation in one process and one attempt."""

    folder: Path | None = None
    attempt = 0

    def __init__(self) -> None:
        self.past = journal.NOTHING  # before this attempt, and after `end` with it; in process 0 alone
        self.finished: list[str] = []  # ids of the images that earlier attempts have finished
        self.found_random = False  # by an earlier attempt
        self.begun: dict[str, Any] = {}  # the fingerprint of a resumed run, in process 0 alone
        self.points: dict[str, Tensor] = {}
        self._entries = [Entry(time=time.time())]

    def heartbeat(self, images: int, budget: int) -> Heartbeat | None:
        """Return the heartbeat of an attack on a number of images with a budget of queries per image, if any."""
        return None

    def append(self, **content: Any) -> None:
        """Add an entry with these fields of `Entry`."""
        self._entries.append(Entry(time=time.time(), **content))

    def point(self, image_id: str, clean: Tensor, final: Tensor) -> None:
        """Keep the final point of an image, (C, H, W)."""
        self.points[image_id] = final.clone()

    def end(self, last: End, waiting: Callable[[], Any]) -> None:
        """Conclude the evaluation."""
        self.append(end=last)
        self.past = self._read()

    @contextmanager
    def sanity_checks(self, victim: nn.Module) -> Iterator[None]:
        """Add the rows of the sanity checks inside to an ended evaluation, in process 0, also if they raise."""
        self.append(sanity_checks=0)
        with RowCounter(victim) as counter:
            try:
                yield
            finally:
                self.append(sanity_checks=counter.rows)
                self.past = self._read()

    def _read(self) -> Past:
        """Return the results of all attempts."""
        return journal.combine({(0, 0): self._entries})


class RunWriter(MemoryWriter):
    """Writes the results of a run, over all of its processes and attempts.

    Process 0 locks the directory, at once for a resumed run and else in `begin`, sends its path and the finished images
    to the other processes, and at the end writes the records of all. Each process writes files of its own.
    """

    folder: Path

    def __init__(self, planned: Path, resume: bool, processes: Processes) -> None:
        super().__init__()
        self._resume = resume
        self._processes = processes
        self._open = ExitStack()
        if processes.leads:
            if resume:
                self.begun = fingerprint.read(planned)  # before the lock makes a folder
                self._lock(planned)
                self.past = journal.read_past(planned)
            finished = [record.id for record in self.past.records]
            processes.publish("run", [str(planned.absolute()), self.past.facts["attempts"], finished, self.past.random])
        folder, self.attempt, self.finished, self.found_random = processes.wait_for("run")
        self.folder = planned if processes.leads else Path(folder)

    def begin(self, now: dict[str, Any], on_ready: Callable[[], None], ids: list[str], keep: int) -> None:
        """Lock the directory of a new run, and open this process's journal; nothing is written before.

        `now` is the fingerprint of this run, `ids` are those of its images, and of `keep` of them the pixels are kept.
        `on_ready` is called in process 0 when the directory is locked, before the run counts as begun.
        """
        if self._processes.leads:
            self._take(now, on_ready, ids)
            self._processes.publish("begun", True)
        else:
            self._processes.wait_for("begun")
            fingerprint.check_same(self.folder, now)
        self._kept = images.chosen(ids, keep)
        self._journal = journal.Journal(self.folder, self.attempt, self._processes.rank)
        self._open.callback(self._journal.close)

    def _lock(self, folder: Path) -> None:
        self._open.callback(journal.lock(folder).release)

    def _take(self, now: dict[str, Any], on_ready: Callable[[], None], ids: list[str]) -> None:
        if self._resume:
            fingerprint.check_same(self.folder, now)
            strange = sorted(set(self.finished) - set(ids))
            if strange:
                raise fingerprint.mixed(self.folder, f"it has a record of {strange[0]}, which is no image of the run")
            on_ready()
            return
        if (self.folder / standard.FILE).exists():
            raise UserError(f"{self.folder} already holds a standard evaluation; give another folder")
        self._lock(self.folder)
        if (self.folder / fingerprint.FILE).exists() or (self.folder / journal.RECORDS).exists():
            raise UserError(f"{self.folder} already holds another run; give --run another folder, or resume: --resume")
        on_ready()
        fingerprint.write(self.folder, now)

    def heartbeat(self, images: int, budget: int) -> Heartbeat | None:
        """Return the heartbeat of the run in process 0."""
        return Heartbeat(self.folder, images, budget) if self._processes.leads else None

    def append(self, **content: Any) -> None:
        """Write an entry with these fields of `Entry`."""
        self._journal.append(Entry(time=time.time(), **content))

    def point(self, image_id: str, clean: Tensor, final: Tensor) -> None:
        """Write the pixels of an image, (C, H, W) both, if it is one of the kept images."""
        if image_id in self._kept:
            path = self.folder / journal.FOLDER / f"image-{self._kept[image_id]}.safetensors"
            images.save(path, {image_id: (clean.cpu().numpy(), final.cpu().numpy())})

    def end(self, last: End, waiting: Callable[[], Any]) -> None:
        """End the attack of this process; process 0 waits for the others, and writes the records of all."""
        try:
            self.append(end=last)
        except UserError as error:
            self._processes.report_failure(error)
            raise
        finally:
            try:
                self._processes.leave(waiting)
            finally:
                if self._processes.leads:
                    self.past = self._read()
                    journal.write_records(self.folder, self.past.records)
                    images.gather(self.folder, sorted((self.folder / journal.FOLDER).glob("image-*.safetensors")))

    def _read(self) -> Past:
        return journal.read_past(self.folder)

    def close(self) -> None:
        """Close this process's journal and unlock the directory."""
        self._open.close()

"""Launchers of a sweep: where its cells run. One process runs a pack of cells at a time."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rfdlight.cli.sweep.experiment import Resources
from rfdlight.cli.sweep.packs import Pack
from rfdlight.cli.sweep.worker import Assignment, Worker
from rfdlight.errors import UserError


@dataclass(frozen=True)
class Ended:
    """A pack whose process has ended, or has died for the reason in `died`."""

    pack: Pack
    died: str = ""


class Launcher(ABC):
    """Runs packs of cells. Which cells are complete is read from the folder of the sweep, and from nothing else.

    Args:
        folder: Folder of the sweep.
        apart: Cells that start processes of their own.
    """

    stops_together = False
    """Whether a signal that stops a cell is meant for the whole sweep."""

    upload = ""
    """URL that gets a copy of each finished cell, if any."""

    processes: int
    """How many packs run at the same time; a guess where the launcher cannot know."""

    def __init__(self, folder: Path, apart: Iterable[str]) -> None:
        self.folder = folder.absolute()
        self._apart = frozenset(apart)

    @abstractmethod
    def check(self, needs: Mapping[str, Resources]) -> None:
        """Raise a UserError, before the first cell, if no process can have what a cell needs; `needs` is by cell."""

    @property
    def has_gpus(self) -> bool:
        """Whether cells that name no resources get a GPU."""
        return torch.cuda.is_available()

    def adopted(self) -> list[Pack]:
        """Return the packs of an earlier sweep in this folder that are still queued or running."""
        return []

    @property
    @abstractmethod
    def capacity(self) -> int:
        """How many further packs to submit now."""

    @abstractmethod
    def submit(self, packs: Sequence[Pack]) -> None:
        """Start or queue at most `capacity` packs."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Ended]:
        """Wait at most so many seconds for packs to end, and return those that did."""

    def close(self) -> str:
        """Stop what runs, keep the finished images, and return a line on what goes on without the sweep, or ""."""
        return ""

    def assignment(self, pack: Pack) -> Assignment:
        """Return the message to the process that runs a pack."""
        return Assignment(
            folder=str(self.folder),
            cells=list(pack.names),
            working_folder=str(Path.cwd()),
            apart=[name for name in pack.names if name in self._apart],
            upload=self.upload,
        )


class InThisProcess(Launcher):
    """Runs one cell after the other in this process."""

    stops_together = True
    processes = 1

    def __init__(self, folder: Path, apart: Iterable[str]) -> None:
        super().__init__(folder, apart)
        self._worker = Worker()
        self._next: Pack | None = None

    def check(self, needs: Mapping[str, Resources]) -> None:
        check_fit(needs, len(visible_devices()), cores(), "this machine")

    @property
    def capacity(self) -> int:
        return int(self._next is None)

    def submit(self, packs: Sequence[Pack]) -> None:
        (self._next,) = packs

    def wait(self, seconds: float) -> list[Ended]:
        pack, self._next = self._next, None
        if pack is None:
            time.sleep(seconds)
            return []
        self._worker.run(self.assignment(pack))
        return [Ended(pack)]


def check_fit(needs: Mapping[str, Resources], gpus: float, cpus: float, place: str) -> None:
    """Raise a UserError if a cell needs more than a place has."""
    for cell, need in needs.items():
        for kind, wanted, most in (("gpus", need.gpus, gpus), ("cpus", need.cpus, cpus)):
            if wanted is not None and wanted > most:
                raise UserError(
                    f"cell {cell}: resources.{kind}: expected at most {most:g}, as {place} has, got {wanted:g}"
                )


def visible_devices() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return given.split(",")[:count] if given else [str(number) for number in range(count)]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

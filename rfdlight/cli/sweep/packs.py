"""The order in which the cells of a sweep run at the same time: longest first, small cells in packs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rfdlight.cli.sweep.experiment import Resources

_SECONDS = 120.0
"""Estimated time that a pack of small cells may have: many times the start of a process."""

_SHARE = 0.25
"""Largest share of a process's part of the whole sweep that a pack may have: the last packs then end together."""


@dataclass(frozen=True)
class Job:
    """A cell to run: its estimated seconds, what it needs, and the victim and data that it loads."""

    name: str
    seconds: float
    resources: Resources = field(default_factory=Resources)
    loads: str = ""


@dataclass(frozen=True)
class Pack:
    """Cells that one process runs one after the other."""

    jobs: tuple[Job, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the cells."""
        return tuple(job.name for job in self.jobs)

    @property
    def seconds(self) -> float:
        """The estimated time of all cells."""
        return sum(job.seconds for job in self.jobs)

    @property
    def resources(self) -> Resources:
        """What each of the cells needs."""
        return self.jobs[0].resources


def longest_first(jobs: Iterable[Job], processes: int) -> list[Pack]:
    """Pack small cells of the same victim, data and resources together, and order the packs by time, longest first.

    Longest-processing-time-first scheduling ends at most 4/3 - 1/(3 m) times as late as the best schedule on m equal
    processes (R. L. Graham, Bounds on Multiprocessing Timing Anomalies, 1969).

    Args:
        jobs: The cells.
        processes: How many packs run at the same time.

    Example:
        >>> jobs = [Job("a", 5), Job("b", 500), Job("c", 7), Job("d", 900)]
        >>> [pack.names for pack in longest_first(jobs, 2)]
        [('d',), ('b',), ('c', 'a')]
    """
    ordered = sorted(jobs, key=lambda job: -job.seconds)
    most = min(_SECONDS, _SHARE * sum(job.seconds for job in ordered) / max(1, processes))
    alike: dict[tuple[str, Resources], list[Job]] = {}
    for job in ordered:
        alike.setdefault((job.loads, job.resources), []).append(job)
    packs = [pack for group in alike.values() for pack in _packed(group, most)]
    return sorted(packs, key=lambda pack: -pack.seconds)


def _packed(jobs: list[Job], most: float) -> Iterator[Pack]:
    """Yield packs of at most so many seconds, or of one cell."""
    pack: list[Job] = []
    for job in jobs:
        if pack and sum(each.seconds for each in pack) + job.seconds > most:
            yield Pack(tuple(pack))
            pack = []
        pack.append(job)
    if pack:
        yield Pack(tuple(pack))


def one_by_one(jobs: Iterable[Job]) -> list[Pack]:
    """Return a pack for each cell, in order."""
    return [Pack((job,)) for job in jobs]

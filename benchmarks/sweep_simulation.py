"""A simulation of a sweep on many workers: packs of cells in a queue, start-ups and kills.

Workers are alike, such as the GPUs of a cluster. A free worker takes the first pack of the queue; a cell of several
devices waits until as many workers are free, and later packs that fit start before it, as Ray places tasks. Every pack
starts a process, as the arrays of SLURM do and the tasks of Ray that have a GPU.

Kills hit a busy worker at a constant rate. A cell attacks its images in rounds of equal length, and a kill loses the
round that it hits. The unfinished cells of the killed pack go to the front of the queue, each by itself, as the driver
of a sweep puts them there, as often as it takes; the next process takes its start-up.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

from rfdlight.cli.sweep.packs import Job, Pack


@dataclass(frozen=True)
class Truth:
    """What a cell takes: its seconds, and the seconds of a round of images, which a kill loses at most."""

    seconds: float
    round: float


@dataclass(frozen=True)
class Machine:
    """Workers, the seconds that each pack and each cell take beside the attacks, and kills per worker and hour."""

    workers: int
    start: float = 0.0
    each: float = 0.0
    kills: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The seconds until the last cell ends, and the number of kills."""

    seconds: float
    kills: int


def simulate(packs: Iterable[Pack], truth: Mapping[str, Truth], machine: Machine, random: Random) -> Outcome:
    """Run packs in their order; `truth` is by cell.

    Raises:
        ValueError: If a pack needs more workers than there are.
    """
    waiting, running = list(packs), []  # running: end, number, width, jobs that are left
    left = {name: cell.seconds for name, cell in truth.items()}
    now, kills, free, numbers = 0.0, 0, machine.workers, itertools.count()
    while waiting or running:
        later = []
        for place, pack in enumerate(waiting):
            if not free:
                later += waiting[place:]
                break
            width = _width(pack)
            if width > free:
                later.append(pack)
                continue
            free -= width
            seconds, unfinished = _attempt(pack, truth, left, machine, random)
            heapq.heappush(running, (now + seconds, next(numbers), width, unfinished))
        if not running:
            raise ValueError(f"a pack needs {_width(later[0])} workers, of {machine.workers}")
        now, _, width, unfinished = heapq.heappop(running)
        free += width
        kills += bool(unfinished)
        waiting = [Pack((job,)) for job in reversed(unfinished)] + later
    return Outcome(now, kills)


def _width(pack: Pack) -> int:
    return max(1, math.ceil(pack.resources.gpus or 1))


def _attempt(
    pack: Pack, truth: Mapping[str, Truth], left: dict[str, float], machine: Machine, random: Random
) -> tuple[float, tuple[Job, ...]]:
    """Take the finished part off what is left of the cells; return the seconds of the process and what it leaves."""
    life = random.expovariate(machine.kills * _width(pack) / 3600) if machine.kills else math.inf
    clock = machine.start
    for number, job in enumerate(pack.jobs):
        begun = clock + machine.each
        clock = begun + left[job.name]
        if clock > life:
            length = truth[job.name].round
            left[job.name] -= max(0.0, life - begun) // length * length
            return life, pack.jobs[number:]
        left[job.name] = 0.0
    return clock, ()

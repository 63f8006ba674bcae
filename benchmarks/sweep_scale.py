"""Simulates a sweep on up to 512 workers from recorded times of cells, for docs/results/sweep-scale.md.

Usage: python benchmarks/sweep_scale.py [--start SECONDS --each SECONDS] [--page docs/results/sweep-scale.md] [--check]

The cells are those of docs/results/*.tar.xz, with their `wall_seconds`; cells of other grids are drawn from them with
replacement. The order of the cells and their packs are the product's, from the estimate of `rfdlight sweep`: queries if
no attack succeeds, by the rows per second of the undefended victim under `random_noise`, or of its other undefended
runs. `benchmarks/sweep_simulation.py` has the model of workers and kills. Without --start and --each they are measured
first: workers of `rfdlight sweep` run packs of one and of five small cells. Every number is a function of the two and
of --seeds. Each table stands between two comments of the page, `<!-- NAME -->` and `<!-- end NAME -->`; with --check
nothing is written, and the exit status says whether the page has the tables.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from operator import attrgetter
from pathlib import Path
from random import Random

import msgspec
import yaml
from page_tables import write
from reproduction_records import table
from scipy.stats import spearmanr
from sweep_simulation import Machine, Truth, simulate

from rfdlight.cli.sweep.experiment import Resources
from rfdlight.cli.sweep.packs import Job, Pack, longest_first, one_by_one
from rfdlight.cli.sweep.worker import Assignment
from rfdlight.engine.compilation import SHARE_MADE
from rfdlight.errors import UserError
from rfdlight.records.facts import RunFacts
from rfdlight.records.result import size_of

ARCHIVES = [Path("docs/results") / f"{name}-records.tar.xz" for name in ("reproduction", "standard")]
SEEDS = 40
IN_WORK = 64
"""Images in work at a time: the default at the batch size of 32 that the recorded cells have."""

WORKERS = 1, 2, 8, 64, 512
LARGE = 8, 64, 512
DRAWN = 120, 480
"""Sizes of the grids that are drawn from the recorded cells."""

KILLS = 0.0, 0.01, 0.1, 1.0
"""Kills per worker and hour."""

MOST = 8
"""Devices that a cell may have: those of one machine."""

SHARED = 0.9
"""Assumed work of each of several devices of a cell, as a share of the work of a single one."""

FASTER = 1, 10, 100
"""How many times as fast as the recorded cells are."""

_SMALL = {
    "data": {"class_path": "cifar10", "init_args": {"num_images": 2}},
    "model": {"victim": "resnet20-cifar10", "budget": 2, "batch_size": 32, "sanity_checks": False},
    "attack": "square",
}


@dataclass(frozen=True)
class Cell:
    """A recorded cell."""

    name: str
    victim: str
    images: int
    seconds: float
    estimate: float
    quiet: float  # seconds of its rows at the rate of the estimate
    devices: int = 1

    @property
    def job(self) -> Job:
        """What the product knows of it before it runs."""
        return Job(self.name, self.estimate, Resources(gpus=self.devices), self.victim)

    @property
    def truth(self) -> Truth:
        """What it takes."""
        seconds = self.seconds if self.devices == 1 else self.seconds / (self.devices * SHARED)
        return Truth(seconds, seconds * min(1.0, IN_WORK / self.images))


class _Summary(msgspec.Struct):
    run: RunFacts


class _Settings(msgspec.Struct):
    budget: int
    stages: list[str]
    num_images: int


class _Cost(msgspec.Struct):
    wall_seconds: float
    ledger: dict[str, int]


class _Standard(msgspec.Struct):
    settings: _Settings
    summary: _Cost


def recorded(archives: Iterable[Path]) -> list[Cell]:
    """Return the cells of archives of records by name; the stages of a standard evaluation are one cell."""
    runs, standards = {}, {}
    for archive in archives:
        with tarfile.open(archive) as files:
            for member in files:
                folder, _, name = member.name.rpartition("/")
                if name == "summary.json":
                    runs[folder] = msgspec.json.decode(files.extractfile(member).read(), type=_Summary).run
                elif name == "standard.json":
                    standards[folder] = msgspec.json.decode(files.extractfile(member).read(), type=_Standard)
    rates = _rates(runs.values())
    cells = []
    for folder, run in runs.items():
        whole = folder.rpartition("/")[0]
        if whole not in standards:
            cells.append(_cell(folder, run, run.num_images * run.budget, run.totals.total, run.wall_seconds, rates))
        elif folder.rpartition("/")[2].startswith("1-"):
            plan, cost = standards[whole].settings, standards[whole].summary
            queries = plan.num_images * plan.budget * len(plan.stages)
            cells.append(_cell(whole, run, queries, cost.ledger["rows"], cost.wall_seconds, rates))
    return sorted(cells, key=lambda cell: cell.name)


def _rates(runs: Iterable[RunFacts]) -> dict[str, float]:
    """Return the rows per second by victim, as the probe of `rfdlight sweep` measures them where a run is like it."""
    like, others = defaultdict(list), defaultdict(list)
    for run in runs:
        if run.defense == "none":
            found = like if run.attack == "random_noise" else others
            found[run.victim].append(run.totals.total / run.wall_seconds)
    return {victim: statistics.median(like.get(victim) or others[victim]) for victim in {*like, *others}}


def _cell(folder: str, run: RunFacts, queries: int, rows: int, seconds: float, rates: dict[str, float]) -> Cell:
    rate = rates[run.victim]
    estimate = queries / rate * (SHARE_MADE if run.deterministic else 1)
    return Cell(folder.removeprefix("runs/"), run.victim, run.num_images, seconds, estimate, rows / rate)


def drawn(cells: Sequence[Cell], count: int, seed: int) -> list[Cell]:
    """Return a grid of so many cells, drawn with replacement, in the order of the records."""
    places = sorted(Random(seed).choices(range(len(cells)), k=count))
    return [replace(cells[place], name=f"{number}-{cells[place].name}") for number, place in enumerate(places)]


def _apart(cells: Iterable[Cell]) -> list[Job]:
    """Return jobs that no pack can hold together."""
    return [replace(cell.job, loads=cell.name) for cell in cells]


def packs(cells: Sequence[Cell], workers: int) -> list[Pack]:
    """Return the packs of `rfdlight sweep`."""
    return longest_first([cell.job for cell in cells], workers)


def exact(cells: Sequence[Cell], workers: int) -> list[Pack]:
    """Return the packs of a sweep that knows the times of its cells."""
    return longest_first([replace(cell.job, seconds=cell.truth.seconds) for cell in cells], workers)


def single(cells: Sequence[Cell], workers: int) -> list[Pack]:
    """Return cells longest first, each in a process of its own."""
    return longest_first(_apart(cells), workers)


def listed(cells: Sequence[Cell], workers: int) -> list[Pack]:
    """Return cells as their file lists them."""
    return one_by_one(cell.job for cell in cells)


def shuffled(cells: Sequence[Cell], workers: int, seed: int) -> list[Pack]:
    """Return cells in random order."""
    return one_by_one(Random(seed).sample([cell.job for cell in cells], len(cells)))


Order = Callable[[Sequence[Cell], int], list[Pack]]
ORDERS: dict[str, Order | None] = {
    "longest first, packs": packs,
    "longest first, no packs": single,
    "as listed": listed,
    "random": None,  # has a seed
    "times known": exact,
}


def work(cells: Iterable[Cell]) -> float:
    """Return the seconds of one worker without start-ups."""
    return sum(cell.seconds for cell in cells)


def bound(cells: Sequence[Cell], workers: int) -> float:
    """Return a lower bound on the seconds of any order: all work divided, or the longest cell."""
    return max(work(cells) / workers, max(cell.truth.seconds for cell in cells))


def takes(cells: Sequence[Cell], order: Order, machine: Machine, seed: int = 0) -> float:
    """Return the simulated seconds of a sweep."""
    truth = {cell.name: cell.truth for cell in cells}
    return simulate(order(cells, machine.workers), truth, machine, Random(seed)).seconds


def widened(cells: Sequence[Cell], workers: int, times: Callable[[Cell], float]) -> list[Cell]:
    """Give the longest cells 2, 4 or 8 devices, until none is longer than a worker's part of the sweep."""
    part = sum(map(times, cells)) / workers
    return [replace(cell, devices=min(MOST, 2 ** max(0, math.ceil(math.log2(times(cell) / part))))) for cell in cells]


def fewer(cells: Iterable[Cell], share: float) -> list[Cell]:
    """Return cells with a share of the images."""
    return [
        replace(cell, images=round(cell.images * share), seconds=cell.seconds * share, estimate=cell.estimate * share)
        for cell in cells
    ]


def hours(seconds: Sequence[float]) -> str:
    """Return the mean in hours, and where 95 % of the values lie if they differ."""
    mean, low, high = (f"{value / 3600:.2f}" for value in (statistics.fmean(seconds), *_most(seconds)))
    return mean if low == high else f"{mean} ({low} to {high})"


def _most(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    cut = len(ordered) // 40
    return ordered[cut], ordered[-1 - cut]


def _efficiency(total: float, seconds: float, workers: int) -> str:
    return f"{total / (workers * seconds):.2f}"


def _wide(cells: Iterable[Cell]) -> int:
    return sum(cell.devices > 1 for cell in cells)


@dataclass(frozen=True)
class Study:
    """Recorded cells, the seconds of start-ups, and the number of seeds."""

    cells: Sequence[Cell]
    start: float
    each: float
    seeds: int = SEEDS

    def machine(self, workers: int, kills: float = 0.0) -> Machine:
        """Return so many workers."""
        return Machine(workers, self.start, self.each, kills)

    def grids(self, count: int) -> list[list[Cell]]:
        """Return the recorded grid, or grids of another size that are drawn from it, one per seed."""
        if count == len(self.cells):
            return [list(self.cells)]
        return [drawn(self.cells, count, seed) for seed in range(self.seeds)]

    def orders(self) -> str:
        """Return the hours of each order, by the size of the grid and the number of workers."""
        rows = []
        for count, workers in product((len(self.cells), *DRAWN), WORKERS):
            grids, machine = self.grids(count), self.machine(workers)
            row = [str(count), str(workers), hours([bound(grid, workers) for grid in grids])]
            for name, order in ORDERS.items():
                orders = [order] if order else [partial(shuffled, seed=seed) for seed in range(self.seeds)]
                pairs = zip(grids, orders, strict=True) if len(grids) == len(orders) else product(grids, orders)
                taken = [takes(grid, each, machine) for grid, each in pairs]
                row.append(hours(taken))
                if name == "longest first, packs":
                    parts = [work(grid) / (workers * one) for grid, one in zip(grids, taken, strict=True)]
                    row.append(f"{statistics.fmean(parts):.2f}")
            rows.append(row)
        first, *others = ORDERS
        return table(["cells", "workers", "bound", first, "efficiency", *others], rows)

    def kills(self) -> str:
        """Return the hours with kills, on the recorded grid."""
        rows = []
        for workers in LARGE:
            for rate in KILLS:
                machine = self.machine(workers, rate)
                truth = {cell.name: cell.truth for cell in self.cells}
                plan = packs(self.cells, workers)
                seeds = range(self.seeds if rate else 1)
                outcomes = [simulate(plan, truth, machine, Random(seed)) for seed in seeds]
                taken = [outcome.seconds for outcome in outcomes]
                number = statistics.fmean(outcome.kills for outcome in outcomes)
                mean = statistics.fmean(taken)
                rows.append(
                    [
                        str(workers),
                        f"{rate:g}",
                        f"{number:.1f}",
                        hours(taken),
                        _efficiency(work(self.cells), mean, workers),
                    ]
                )
        return table(["workers", "kills per worker and hour", "kills", "hours", "efficiency"], rows)

    def remedies(self) -> str:
        """Return what a user can change where the longest cell decides."""
        rows = []
        for workers in LARGE:
            by_estimate, by_time = (
                widened(self.cells, workers, attrgetter(times)) for times in ("estimate", "seconds")
            )
            choices = {
                "as recorded": [list(self.cells)],
                f"2 to {MOST} devices for {_wide(by_estimate)} cells, by estimates": [by_estimate],
                f"2 to {MOST} devices for {_wide(by_time)} cells, by times": [by_time],
                "a third of the images": [fewer(self.cells, 1 / 3)],
                f"{DRAWN[-1]} cells": self.grids(DRAWN[-1]),
            }
            for told, grids in choices.items():
                taken = [takes(grid, packs, self.machine(workers)) for grid in grids]
                parts = [work(grid) / (workers * one) for grid, one in zip(grids, taken, strict=True)]
                longest = statistics.fmean(max(cell.truth.seconds for cell in grid) for grid in grids)
                rows.append([str(workers), told, f"{longest / 60:.0f}", hours(taken), f"{statistics.fmean(parts):.2f}"])
        return table(["workers", "grid", "longest cell, min", "hours", "efficiency"], rows)

    def starts(self) -> str:
        """Return the minutes with and without packs where cells are faster and start-ups are not."""
        rows = []
        for factor, workers in product(FASTER, (8, 64)):
            grid = [
                replace(each, seconds=each.seconds / factor, estimate=each.estimate / factor) for each in self.cells
            ]
            machine = self.machine(workers)
            taken = [takes(grid, order, machine) for order in (packs, single)]
            rows.append(
                [
                    f"{factor}",
                    str(workers),
                    str(len(packs(grid, workers))),
                    *(f"{seconds / 60:.1f}" for seconds in taken),
                    *(_efficiency(work(grid), seconds, workers) for seconds in taken),
                ]
            )
        head = ["times as fast", "workers", "packs", "minutes, packs", "minutes, no packs"]
        return table([*head, "efficiency, packs", "efficiency, no packs"], rows)

    def facts(self) -> str:
        """Return what the grid is, and how far its estimates are off."""
        ratios = [cell.seconds / cell.estimate for cell in self.cells]
        low, high = _most(ratios)
        longest = max(self.cells, key=lambda cell: cell.seconds)
        estimates, seconds, quiet = zip(
            *((cell.estimate, cell.seconds, cell.quiet) for cell in self.cells), strict=True
        )
        enough = max(
            workers
            for workers in range(1, len(self.cells))
            if work(self.cells) / (workers * takes(self.cells, packs, self.machine(workers))) >= 0.8
        )
        rows = {
            "cells": str(len(self.cells)),
            "hours on one worker": f"{work(self.cells) / 3600:.1f}",
            "longest cell": f"{longest.name}, {longest.seconds / 60:.0f} min",
            "hours by hours of the longest cell": f"{work(self.cells) / longest.seconds:.1f}",
            "most workers with an efficiency of 0.8": str(enough),
            "time by estimate, median": f"{statistics.median(ratios):.2f} (95 % from {low:.2f} to {high:.2f})",
            "rank correlation of time and estimate": f"{spearmanr(seconds, estimates).statistic:.2f}",
            "rank correlation of rows and estimate": f"{spearmanr(quiet, estimates).statistic:.2f}",
            "seconds of a start, and of each cell beside its attack": f"{self.start:g}, {self.each:g}",
        }
        return table(["recorded grid", ""], rows.items())

    def tables(self) -> dict[str, str]:
        """Return the tables of the page by name."""
        made = (self.facts, self.orders, self.remedies, self.kills, self.starts)
        return {each.__name__: each() for each in made}


def measured(rounds: int = 3) -> tuple[float, float]:
    """Return the seconds of a worker's start with its first victim and data, and of each cell beside its attack.

    A worker runs a pack of one small cell, then another worker a pack of five; medians over the rounds, in seconds of
    the CPU, which other work on the machine changes least.
    """
    one, five = (statistics.median(_pack_seconds(count) for _ in range(rounds)) for count in (1, 5))
    each = (five - one) / 4
    return one - each, each


def _pack_seconds(count: int) -> float:
    names = [f"cell{number}" for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, f"{name}.yaml").write_text(yaml.safe_dump(_SMALL))
        assignment = Assignment(folder=folder, cells=names, working_folder=folder)
        begun = _cpu_seconds_of_children()
        done = subprocess.run(
            [sys.executable, "-m", "rfdlight.cli.sweep.worker"],
            input=msgspec.json.encode(assignment) + b"\n",
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        taken = _cpu_seconds_of_children() - begun
        if not all(size_of(Path(folder, name)) for name in names):
            raise UserError(f"start: expected small cells of CIFAR-10 to run, got {done.stderr.decode()[-200:]!r}")
    return taken


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--start", type=float, help="Seconds of a worker's start (default: measured).")
    parser.add_argument("--each", type=float, help="Seconds of a cell beside its attack (default: measured).")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--page", type=Path, help="Page to write; without it the tables are printed.")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        start, each = options.start, options.each
        if start is None or each is None:
            found = measured()
            start, each = (own if given is None else given for own, given in zip(found, (start, each), strict=True))
        tables = Study(recorded(ARCHIVES), start, each, options.seeds).tables()
        if options.page is not None:
            return write(options.page, tables, options.check)
        print("\n\n".join(f"{name}\n\n{made}" for name, made in tables.items()))
        return 0
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())

"""About how long the cells of a sweep take, by a short run against each of their victims."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from rfdlight.cli.sweep_cells import Facts, Size, attempt, config_file, is_finished, naming
from rfdlight.cli.sweep_config import Cell
from rfdlight.errors import UserError
from rfdlight.evaluation.progress import duration
from rfdlight.evaluation.sanity_checks import QUERIES

_PROBE = Size(images=64, budget=8)
"""Of the short run that tells how many rows a second a victim answers."""


@dataclass(frozen=True)
class Speed:
    """How many rows a victim answers per second, and whether it answers the same every time."""

    rate: float
    deterministic: bool


def speeds_of(
    cells: list[Cell], facts: dict[str, Facts], scratch: Path, run: Callable[[list[str]], int]
) -> dict[str, Speed]:
    """Return how fast the victim of each cell is, measured once for cells of one victim.

    Args:
        cells: To be measured; their configurations lie in `scratch`.
        facts: Of each of them, by name.
        scratch: Folder for the runs.
        run: Runs a command line and returns its exit status.

    Raises:
        UserError: If a victim cannot be attacked.
    """
    known: dict[str, Speed] = {}
    speeds = {}
    for cell in cells:
        victim = _without_attack(cell)
        if victim not in known:
            with naming(cell):
                known[victim] = _speed(cell, facts[cell.name], scratch, run)
        speeds[cell.name] = known[victim]
    return speeds


def _without_attack(cell: Cell) -> str:
    return json.dumps({key: value for key, value in cell.config.items() if key != "attack"}, sort_keys=True)


class Clock:
    """Measures how long the cells of a sweep take, and estimates the rest by the planned queries of those done.

    Args:
        cells: That are to be run, in order.
        facts: Of each of them, by name.
    """

    def __init__(self, cells: list[Cell], facts: dict[str, Facts]) -> None:
        self._planned = {
            cell.name: facts[cell.name].size.images * max(1, facts[cell.name].size.budget) for cell in cells
        }
        self._victim = {cell.name: _without_attack(cell) for cell in cells}
        self._seconds: dict[str, float] = {}
        self._last = self._begun = time.monotonic()

    def passed(self, cell: Cell) -> str:
        """Note that a cell has ended; return in words how long it and all cells so far took, and what is left."""
        now = time.monotonic()
        self._seconds[cell.name], self._last = now - self._last, now
        told = f"{duration(self._seconds[cell.name])}, all {duration(now - self._begun)}"
        left = self.left()
        return f"{told}, about {duration(left)} left" if left else told

    def left(self) -> float:
        """Return about how many seconds the remaining cells take, by the planned queries of those of their victim."""
        return sum(
            self._per_query(name) * planned for name, planned in self._planned.items() if name not in self._seconds
        )

    def _per_query(self, name: str) -> float:
        same = [done for done in self._seconds if self._victim[done] == self._victim[name]] or list(self._seconds)
        return sum(self._seconds[done] for done in same) / sum(self._planned[done] for done in same)


def _speed(cell: Cell, facts: Facts, scratch: Path, run: Callable[[list[str]], int]) -> Speed:
    place = scratch / "probe"
    options = {
        "attack": "random_noise",
        "attack.eps": facts.eps,
        "attack.norm": facts.norm,
        "model.budget": _PROBE.budget,
        "data.num_images": min(_PROBE.images, facts.size.images) if facts.resizable else None,
        "trainer.devices": 1,
        "trainer.num_nodes": 1,
        "run": place,
    }
    line = [f"--{name}={value}" for name, value in options.items() if value is not None]
    probed = attempt(["test", "-c", str(config_file(scratch, cell)), *line], run)
    if probed.status and not is_finished(place):
        raise UserError(probed.reason)
    summary = json.loads((place / "summary.json").read_text())
    shutil.rmtree(place)
    return Speed(summary["ledger"]["rows"] / summary["run"]["wall_seconds"], summary["run"]["deterministic"])


def _seconds(facts: Facts, speed: Speed) -> float:
    """Return about how long a cell's images and sanity checks take, if none breaks."""
    draws = 3 if speed.deterministic else facts.draws
    checks = facts.checked * (min(QUERIES, facts.size.budget) + draws)
    return (facts.size.images * (facts.size.budget * facts.fill + draws) + checks) / speed.rate


def plan(sizes: dict[str, Size], facts: dict[str, Facts], speeds: dict[str, Speed]) -> Table:
    """Show every cell: its images and queries at most, and about how long it takes if no image breaks.

    Args:
        sizes: Of all cells, by name.
        facts: Of those that are to be run.
        speeds: Of the victims of these.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("cell", f"{len(facts)} of {len(sizes)} to run", overflow="fold")
    seconds = {name: _seconds(facts[name], speeds[name]) for name in facts}
    for column, footer in (
        ("images", ""),
        ("queries", ""),
        ("rows/s", ""),
        ("if none breaks", _minutes(sum(seconds.values()))),
    ):
        table.add_column(column, footer, justify="right")
    for name, size in sizes.items():
        told = (f"{speeds[name].rate:,.0f}", _minutes(seconds[name])) if name in facts else ("", "done")
        table.add_row(name, f"{size.images:,}", f"{size.budget:,}", *told)
    return table


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f} min"

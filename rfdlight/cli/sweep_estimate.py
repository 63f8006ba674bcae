"""Estimated time of the cells of a sweep, from a short run against each of their victims."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from rfdlight.cli.sweep_cells import Facts, Run, Size, attempt, config_file, naming, size_of
from rfdlight.cli.sweep_config import Cell
from rfdlight.errors import UserError
from rfdlight.evaluation.interface import duration
from rfdlight.evaluation.sanity_checks import QUERIES

_PROBE = Size(images=64, budget=8)
"""Size of the short run that measures the speed of a victim."""


@dataclass(frozen=True)
class Speed:
    """Rows that a victim computes per second, and whether it is deterministic."""

    rate: float
    deterministic: bool


def speeds_of(cells: list[Cell], facts: dict[str, Facts], scratch: Path, run: Run) -> dict[str, Speed]:
    """Measure the speed of the victim of each cell, once for all cells of the same victim.

    Args:
        cells: The cells; their configurations lie in `scratch`.
        facts: The facts of each cell, by name.
        scratch: Folder for the runs.
        run: Runs a command line and returns its exit status.

    Raises:
        UserError: If a victim cannot be attacked.
    """
    known: dict[str, Speed] = {}
    for cell in cells:
        if victim_of(cell) not in known:
            with naming(cell):
                known[victim_of(cell)] = _measured(cell, facts[cell.name], scratch, run)
    return {cell.name: known[victim_of(cell)] for cell in cells}


def victim_of(cell: Cell) -> str:
    """Return the settings of a cell without its attack: cells with the same settings have the same speed."""
    return json.dumps({key: value for key, value in cell.config.items() if key != "attack"}, sort_keys=True)


class Clock:
    """Measures the time of the cells of a sweep, and estimates the time of the remaining cells by their queries.

    Args:
        cells: The cells that are to be run, in order.
        facts: The facts of each cell, by name.
    """

    def __init__(self, cells: list[Cell], facts: dict[str, Facts]) -> None:
        sizes = {cell.name: facts[cell.name].size for cell in cells}
        self._queries = {name: size.images * max(1, size.budget) for name, size in sizes.items()}
        self._victim = {cell.name: victim_of(cell) for cell in cells}
        self._seconds: dict[str, float] = {}
        self._last = self._begun = time.monotonic()

    def passed(self, cell: Cell) -> str:
        """Note the end of a cell; return the time of the cell, of all cells so far and of the rest as text."""
        now = time.monotonic()
        self._seconds[cell.name], self._last = now - self._last, now
        text = f"{duration(self._seconds[cell.name])}, all {duration(now - self._begun)}"
        left = sum(self._per_query(name) * self._queries[name] for name in self._queries.keys() - self._seconds.keys())
        return f"{text}, about {duration(left)} left" if left else text

    def _per_query(self, name: str) -> float:
        same = [done for done in self._seconds if self._victim[done] == self._victim[name]] or list(self._seconds)
        return sum(self._seconds[done] for done in same) / sum(self._queries[done] for done in same)


def _measured(cell: Cell, facts: Facts, scratch: Path, run: Run) -> Speed:
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
    if probed.status and size_of(place) is None:
        raise UserError(probed.reason)
    summary = json.loads((place / "summary.json").read_text())
    shutil.rmtree(place)
    return Speed(summary["ledger"]["rows"] / summary["run"]["wall_seconds"], summary["run"]["deterministic"])


def _seconds(facts: Facts, speed: Speed) -> float:
    """Return the estimated time of a cell's images and sanity checks, if no attack succeeds."""
    draws = 3 if speed.deterministic else facts.draws
    checks = facts.checked * (min(QUERIES, facts.size.budget) + draws)
    return (facts.size.images * (facts.size.budget * facts.fill + draws) + checks) / speed.rate


def plan(sizes: dict[str, Size], facts: dict[str, Facts], speeds: dict[str, Speed]) -> Table:
    """Return a table of all cells: images, queries at most, and estimated time if no attack succeeds.

    Args:
        sizes: The sizes of all cells, by name.
        facts: The facts of the cells that are to be run.
        speeds: The speeds of the victims of these.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("cell", f"{len(facts)} of {len(sizes)} to run", overflow="fold")
    seconds = {name: _seconds(facts[name], speeds[name]) for name in facts}
    for column, footer in (
        ("images", ""),
        ("queries", ""),
        ("rows/s", ""),
        ("if all robust", _minutes(sum(seconds.values()))),
    ):
        table.add_column(column, footer, justify="right")
    for name, size in sizes.items():
        cost = (f"{speeds[name].rate:,.0f}", _minutes(seconds[name])) if name in facts else ("", "done")
        table.add_row(name, f"{size.images:,}", f"{size.budget:,}", *cost)
    return table


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f} min"

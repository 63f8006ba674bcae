"""About how long the cells of a sweep take, by a short run against each of their victims."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from rfdlight.commands.sweep_cells import Facts, Size, attempt, config_file, is_finished, naming
from rfdlight.errors import UserError
from rfdlight.protocol.experiment import Cell

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
        victim = json.dumps({key: value for key, value in cell.config.items() if key != "attack"}, sort_keys=True)
        if victim not in known:
            with naming(cell):
                known[victim] = _speed(cell, facts[cell.name], scratch, run)
        speeds[cell.name] = known[victim]
    return speeds


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
    with contextlib.redirect_stdout(io.StringIO()):
        status, reason = attempt(["test", "-c", str(config_file(scratch, cell)), *line], run)
    if status and not is_finished(place):
        raise UserError(reason)
    summary = json.loads((place / "summary.json").read_text())
    shutil.rmtree(place)
    return Speed(summary["ledger"]["rows"] / summary["run"]["wall_seconds"], summary["run"]["deterministic"])


def _seconds(facts: Facts, speed: Speed) -> float:
    """Return about how long a cell's images take, if none breaks."""
    draws = 3 if speed.deterministic else facts.draws
    return facts.size.images * (facts.size.budget * facts.fill + draws) / speed.rate


def plan(sizes: dict[str, Size], facts: dict[str, Facts], speeds: dict[str, Speed]) -> Table:
    """Show every cell: what it asks at most, and about how long that takes.

    Args:
        sizes: Of all cells, by name.
        facts: Of those that are to be run.
        speeds: Of the victims of these.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("cell", f"{len(facts)} of {len(sizes)} to run", overflow="fold")
    seconds = {name: _seconds(facts[name], speeds[name]) for name in facts}
    for column, footer in (("images", ""), ("queries", ""), ("rows/s", ""), ("about", _minutes(sum(seconds.values())))):
        table.add_column(column, footer, justify="right")
    for name, size in sizes.items():
        told = (f"{speeds[name].rate:,.0f}", _minutes(seconds[name])) if name in facts else ("", "done")
        table.add_row(name, f"{size.images:,}", f"{size.budget:,}", *told)
    return table


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f} min"

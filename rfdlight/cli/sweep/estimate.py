"""The estimated time of a sweep's cells, from the measured speed of their victims."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from rich import box
from rich.table import Table

from rfdlight.cli.sweep.cells import Checked
from rfdlight.cli.sweep.experiment import Cell
from rfdlight.cli.sweep.packs import Job
from rfdlight.data.given import GivenImages
from rfdlight.engine.compilation import SHARE_MADE
from rfdlight.evaluation.evaluate import evaluate
from rfdlight.evaluation.interface import LOGGER
from rfdlight.records.result import Size

_PROBE = Size(images=64, budget=8)
"""Size of the short evaluation that measures the speed of a victim."""


def seconds(checked: Mapping[str, Checked]) -> dict[str, float]:
    """Return, for each cell, its time if no attack succeeds."""
    rates: dict[int, float] = {}
    for cell in checked.values():
        if id(cell.victim) not in rates:
            rates[id(cell.victim)] = _rows_per_second(cell)
    return {name: cell.size.queries / rates[id(cell.victim)] for name, cell in checked.items()}


def jobs_of(cells: Iterable[Cell], checked: Mapping[str, Checked], has_gpus: bool, measure: bool) -> list[Job]:
    """Return cells as jobs; their times are numbers of queries unless they are to be measured."""
    times = seconds(checked) if measure else {name: float(cell.size.queries) for name, cell in checked.items()}
    jobs = []
    for cell in cells:
        found = checked[cell.name]
        time = times[cell.name] * (1 if found.random else SHARE_MADE)
        jobs.append(Job(cell.name, time, found.resources(cell.resources, has_gpus), found.loads))
    return jobs


def plan(sizes: Mapping[str, Size], checked: Mapping[str, Checked]) -> Table:
    """Return a table of all cells: images, queries, and the time of the missing cells if no attack succeeds."""
    minutes = {name: time / 60 for name, time in seconds(checked).items()}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    table.add_column("cell", f"{len(checked)} of {len(sizes)} to run", overflow="fold")
    for column, footer in (("images", ""), ("queries", ""), ("if all robust", f"{sum(minutes.values()):,.1f} min")):
        table.add_column(column, footer, justify="right")
    for name, size in sizes.items():
        cost = f"{minutes[name]:,.1f} min" if name in minutes else "done"
        table.add_row(name, f"{size.images:,}", f"{size.budget:,}", cost)
    return table


def _rows_per_second(cell: Checked) -> float:
    """Measure the speed of a victim without its defense, in a short evaluation."""
    images = cell.images.take(list(range(min(_PROBE.images, len(cell.images)))))
    data = GivenImages(images, cell.num_classes)
    level = LOGGER.level
    LOGGER.setLevel(logging.ERROR)  # warnings about so few images say nothing of the sweep
    try:
        run = evaluate(
            cell.victim,
            data,
            "random_noise",
            eps=0.1,
            budget=_PROBE.budget,
            sanity_checks=False,
            device=cell.device,
            progress=False,
        )
    finally:
        LOGGER.setLevel(level)
    return run.facts.totals.total / run.facts.wall_seconds

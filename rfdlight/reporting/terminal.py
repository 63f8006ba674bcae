"""A report on a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rfdlight.records.summary import Estimate
from rfdlight.reporting.grid import Column
from rfdlight.reporting.report import READING_PAIRS, READING_SHORT, SHORT_HEAD, Report
from rfdlight.reporting.tables import HEADLINE, bounds, is_known, percent

_NUMBER, _NAME = 10, 20
"""Least widths in characters: of "99.1-100.0", and of the name of a method."""

_LABEL, _RUN = 30, 22
"""Widths of the runs side by side: of the labels, and of a run, "100.0% (99.1 to 100.0)"."""


def terminal(report: Report, width: int, details: bool = False) -> list[RenderableType]:
    """Return grid, comparisons, runs side by side if `details`, and caveats for a rich console of a width."""
    parts: list[RenderableType] = []
    widths = [1 + _width(column) for column in report.grid.columns]
    for part in _fitting(widths, width - _NAME - _NUMBER - 1):
        parts += [_grid(report, part), ""]
    parts += [Text(line, style="dim") for line in report.reading]
    if report.comparisons:
        legend = Text(f"\n{READING_PAIRS} {READING_SHORT}\n", style="dim")
        parts += [Text(f"\n{report.paired_title}\n", style="bold"), _pairs(report), legend]
    if details:
        parts += [_details(report, part) for part in _fitting([_RUN + 3] * len(report.runs), width - _LABEL)]
    return [*parts, *map(Text, report.caveats)]


def _fitting(widths: list[int], room: int) -> list[list[int]]:
    """Return the numbers of the columns of each table that fits, with at least one column each."""
    parts: list[list[int]] = [[]]
    for i, width in enumerate(widths):
        if parts[-1] and sum(widths[j] for j in parts[-1]) + width > room:
            parts.append([])
        parts[-1].append(i)
    return parts


def _width(column: Column) -> int:
    return max([_NUMBER, *map(len, column.label.split()), len(column.queries)])


def _grid(report: Report, part: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("robust accuracy\nafter queries", min_width=_NAME, overflow="fold")
    table.add_column("clean", justify="right", no_wrap=True, min_width=_NUMBER)
    for column in (report.grid.columns[i] for i in part):
        table.add_column(Text(f"{column.label}\n{column.queries}"), justify="right", width=_width(column))
    for victim, rows in itertools.groupby(report.grid.rows, lambda row: row.victim):
        table.add_row(Text(victim, style="bold"))
        for row in rows:
            cells = [row.cells[i] for i in part]
            texts = [Text("-") if cell is None else _cell(cell.robust, cell.remark) for cell in cells]
            table.add_row(Text(report.name(row)), _cell(row.clean), *texts)
    return table


def _cell(share: Estimate, remark: str = "") -> Text:
    cell = Text(percent(share), style="bold")
    if is_known(share):
        cell.append(f"\n{bounds(share, '-')}", style="not bold")
    return cell.append(f"\n{remark}", style="dim") if remark else cell


def _pairs(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("on", overflow="fold")
    for heading in SHORT_HEAD:
        table.add_column(heading, justify="right", no_wrap=heading != "pair" or report.subject == "defenses")
    for pair in report.comparisons:
        table.add_row(*map(Text, [report.on(pair), *report.short_cells(pair)]))
    return table


def _details(report: Report, part: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", width=_LABEL)
    for i in part:
        table.add_column(Text(report.runs[i].label), overflow="fold", min_width=_RUN)
    for label, cells in report.details:
        table.add_row(Text(label), *(Text(cells[i]) for i in part), style="bold" if label == HEADLINE else "")
    return table

"""A report on a terminal."""

from __future__ import annotations

import textwrap

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rfdlight.records.summary import Estimate
from rfdlight.reporting.report import (
    READING_LETTERS,
    READING_PAIRS,
    Heading,
    Report,
    defense_text,
    p_text,
    points,
    points_interval,
    queries_text,
)
from rfdlight.reporting.tables import percent

_CLEAN = _NUMBER = 10
"""Characters of "99.1-100.0"."""

_LEAST = 20
"""Characters for the names of the methods, at the least."""

_LABEL_WIDTH, _RUN_WIDTH = 31, 24
"""Characters of a column with its padding: the longest label, and "100.0% (99.1 to 100.0)"."""


def grid_tables(report: Report, width: int) -> list[RenderableType]:
    """Return the grid, in as many tables as the width asks for, and how it is read."""
    columns = [_Column(heading) for heading in report.headings()]
    parts: list[list[int]] = [[]]
    for i in range(len(columns)):
        if parts[-1] and _taken([columns[j] for j in [*parts[-1], i]]) > width - _LEAST:
            parts.append([])
        parts[-1].append(i)
    tables: list[RenderableType] = []
    for part in parts:
        tables += [_grid_table(report, columns, part, width), ""]
    return [*tables, *(Text(line, style="dim") for line in report.reading())]


def paired_table(report: Report) -> list[RenderableType]:
    """Return the comparisons, the methods by their letters in the grid, and how they are read; none, nothing."""
    if not report.comparisons:
        return []
    letters = report.letters()
    defenses = report.subject == "defenses"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("attack" if defenses else "attacks", overflow="fold")
    table.add_column("queries", justify="right", min_width=len("queries"))
    for heading in ("pair" if defenses else "on", "points", "95% interval", "only", "p", "p Holm"):
        table.add_column(heading, justify="right", no_wrap=True)
    for pair in report.comparisons:
        first, second = letters[pair.first.method], letters[pair.second.method]
        table.add_row(
            Text(pair.first.attack if defenses else f"{pair.second.attack} - {pair.first.attack}"),
            queries_text(pair),
            f"{second} - {first}" if defenses else first,
            Text(points(pair.difference), style="bold"),
            points_interval(pair.interval),
            f"{pair.only_second:,} : {pair.only_first:,}",
            p_text(pair.p),
            p_text(pair.p_holm),
        )
    return [
        Text(f"\n{report.paired_title}\n", style="bold"),
        table,
        Text(f"\n{READING_PAIRS} {READING_LETTERS}\n", style="dim"),
    ]


def detail_tables(report: Report, width: int) -> list[RenderableType]:
    """Return the runs side by side, in as many tables as the width asks for."""
    fitting = max(1, (width - _LABEL_WIDTH) // _RUN_WIDTH)
    return [_detail_table(report, slice(i, i + fitting)) for i in range(0, len(report.runs), fitting)]


class _Column:
    """How wide a column of the grid has to be, and its attack's name in lines of that width."""

    def __init__(self, heading: Heading) -> None:
        self.width = max([_NUMBER, *map(len, heading.attack.split()), len(heading.queries)])
        self.lines = textwrap.wrap(heading.attack, self.width)
        self.queries = heading.queries

    def head(self, height: int) -> Text:
        """Return the name and the queries, at the bottom of so many lines."""
        return Text("\n".join([""] * (height - len(self.lines)) + [*self.lines, self.queries]))


def _taken(columns: list[_Column]) -> int:
    """Return the characters that columns take up beside the methods' names, with that of the clean accuracy."""
    return 1 + _CLEAN + sum(1 + column.width for column in columns)


def _grid_table(report: Report, columns: list[_Column], part: list[int], width: int) -> Table:
    letters = report.letters() if report.comparisons else {}
    names = {row.method: f"{letters.get(row.method, ' ')} {defense_text(row.method)}" for row in report.grid.rows}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    height = max(len(columns[i].lines) for i in part)
    above = "\n" * (height - 1)
    wanted = max(2 + len(name) for name in [*names.values(), *report.by_victim(), "robust accuracy"])
    room = max(_LEAST, width - _taken([columns[i] for i in part]))
    table.add_column(f"{above}robust accuracy\nafter queries", width=min(room, wanted), overflow="fold")
    table.add_column(f"{above}\nclean", justify="right", no_wrap=True, min_width=_CLEAN)
    for i in part:
        table.add_column(columns[i].head(height), justify="right", no_wrap=True, min_width=columns[i].width)
    for victim, rows in report.by_victim().items():
        table.add_row(Text(victim, style="bold"))
        for row in rows:
            shares, remarks = report.shares(row), report.remarks(row)
            name = textwrap.fill(names[row.method], min(room, wanted), subsequent_indent="  ")
            table.add_row(Text(name), _cell(row.clean), *(_cell(shares[i], remarks[i]) for i in part))
    return table


def _cell(share: Estimate | None, remark: str = "") -> Text:
    if share is None or not share.total:
        return Text("-")
    cell = Text(percent(share), style="bold")
    cell.append(f"\n{100 * share.low:.1f}-{100 * share.high:.1f}", style="not bold")
    return cell.append(f"\n{remark}", style="dim") if remark else cell


def _detail_table(report: Report, shown: slice) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for run in report.runs[shown]:
        table.add_column(Text(run.label), overflow="fold", min_width=_RUN_WIDTH - 2)
    for label, cells in report.details:
        style = "bold" if label == "mean logits: robust" else ""
        table.add_row(label, *(Text(cell) for cell in cells[shown]), style=style)
    return table

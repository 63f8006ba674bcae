"""Paired comparisons of the defenses of one victim, or of the attacks on it, on the same images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rfdlight.core.statistics import PairedCounts, count_pairs, holm
from rfdlight.records.runs import Run
from rfdlight.reporting.grid import Column, Grid, Row, standing

Subject = Literal["defenses", "attacks"]

_ONE_THREAT = ("norm", "eps", "targeted", "criterion", "query_counting")
"""The facts that two compared attacks share."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a run after a number of queries, with its row of the grid and its attack."""

    row: Row
    attack: str
    budget: int
    run: Run


@dataclass(frozen=True, kw_only=True)
class Comparison(PairedCounts):
    """Robust images of two defenses under one attack, or of two attacks on one method, among their common images."""

    first: Side
    second: Side
    p_holm: float = math.nan


def compare(grid: Grid, subject: Subject = "defenses") -> list[Comparison]:
    """Compare each pair of defenses of one victim, or each pair of attacks on one method, with Holm's p over all pairs.

    Two defenses are compared in each column, the undefended one first. Two attacks are compared in each row if they
    share the facts of `_ONE_THREAT`, at their own budgets or at one number of queries. Runs without a common image are
    not compared.
    """
    pairs = _defenses(grid) if subject == "defenses" else _attacks(grid)
    found = [comparison for first, second in pairs if (comparison := _compared(first, second)) is not None]
    adjusted = holm([comparison.p for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, adjusted, strict=True)]


def _defenses(grid: Grid) -> Iterator[tuple[Side, Side]]:
    victims = dict.fromkeys((row.method.victim, row.method.data) for row in grid.rows)
    undefended_first = sorted(grid.rows, key=lambda row: row.method.defense != "none")
    for victim, column in itertools.product(victims, grid.columns):
        rows = [row for row in undefended_first if (row.method.victim, row.method.data) == victim]
        yield from itertools.combinations([side for row in rows for side in _sides(row, [column])], 2)


def _attacks(grid: Grid) -> Iterator[tuple[Side, Side]]:
    for row in grid.rows:
        for first, second in itertools.combinations(_sides(row, grid.columns), 2):
            one, two = first.run.facts, second.run.facts
            alike = all(getattr(one, name) == getattr(two, name) for name in _ONE_THREAT)
            own = (first.budget, second.budget) == (one.budget, two.budget)
            if alike and first.attack != second.attack and (own or first.budget == second.budget):
                yield first, second


def _sides(row: Row, columns: Sequence[Column]) -> list[Side]:
    """Return a side for each cell of a row in some columns that is of one run."""
    return [
        Side(row, column.label, column.budget, run)
        for column in columns
        if not column.worst and column.budget is not None
        for run in column.runs.get(row.method, {}).values()
        if column.budget <= run.facts.budget
    ]


def _compared(first: Side, second: Side) -> Comparison | None:
    common = first.run.by_id.keys() & second.run.by_id.keys()
    if not common:
        return None
    robust = (standing([side.run], common, side.budget) for side in (first, second))
    return Comparison(first=first, second=second, **count_pairs(*robust))

"""Paired comparisons of the defenses of one victim, or of the attacks on it, on the same images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rfdlight.core.statistics import PairedCounts, count_pairs, holm
from rfdlight.records.runs import Run
from rfdlight.reporting.grid import Grid, Row, standing

Subject = Literal["defenses", "attacks"]

ONE_THREAT = ("norm", "eps", "targeted", "criterion", "query_counting")
"""The facts that two runs share if the attackers can do the same: their robust accuracies are comparable."""


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
    share the facts of `ONE_THREAT`, at their own budgets or at one number of queries. Runs without a common image are
    not compared.
    """
    groups: dict[Hashable, list[Side]] = {}
    for row, column, cell in grid.filled:
        if not column.worst and column.budget is not None:
            method = row.method
            key = (method.victim, method.data, column.label, column.budget) if subject == "defenses" else method
            groups.setdefault(key, []).append(Side(row, column.label, column.budget, *cell.runs.values()))
    pairs_of = _defenses if subject == "defenses" else _attacks
    pairs = [pair for group in groups.values() for pair in pairs_of(group)]
    found = [comparison for pair in pairs if (comparison := _compared(*pair)) is not None]
    adjusted = holm([comparison.p for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, adjusted, strict=True)]


def _defenses(sides: list[Side]) -> Iterator[tuple[Side, Side]]:
    return itertools.combinations(sorted(sides, key=lambda side: side.row.method.defense != "none"), 2)


def _attacks(sides: list[Side]) -> Iterator[tuple[Side, Side]]:
    for first, second in itertools.combinations(sides, 2):
        one, two = first.run.facts, second.run.facts
        alike = all(getattr(one, name) == getattr(two, name) for name in ONE_THREAT)
        own = (first.budget, second.budget) == (one.budget, two.budget)
        if alike and first.attack != second.attack and (own or first.budget == second.budget):
            yield first, second


def _compared(first: Side, second: Side) -> Comparison | None:
    common = first.run.by_id.keys() & second.run.by_id.keys()
    if not common:
        return None
    robust = (standing([side.run], common, side.budget) for side in (first, second))
    return Comparison(first=first, second=second, **count_pairs(*robust))

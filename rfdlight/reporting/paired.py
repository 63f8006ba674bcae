"""Defenses of one victim, or attacks on it, compared on the same images."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from rfdlight.core.statistics import holm, mcnemar, paired_interval
from rfdlight.reporting.grid import Cell, Column, Grid, standing
from rfdlight.reporting.settings import Method

Subject = Literal["defenses", "attacks"]

_ONE_THREAT = ("norm", "eps", "targeted", "criterion", "query_counting")
"""The facts that two attacks have to agree in to be compared."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a method under an attack, after a number of queries."""

    method: Method
    attack: str
    budget: int


@dataclass(frozen=True)
class Comparison:
    """Two defenses under one attack, or two attacks on one method: how many of the common images stand in each."""

    first: Side
    second: Side
    both: int
    only_first: int
    only_second: int
    neither: int
    p_holm: float = math.nan
    """The p of this comparison among all of a report."""

    @property
    def images(self) -> int:
        """Images that both runs have."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Robust accuracy of the second side less that of the first, in [-1, 1]."""
        return (self.only_second - self.only_first) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference."""
        return paired_interval(self.only_first, self.only_second, self.images)

    @property
    def p(self) -> float:
        """Of McNemar's exact test."""
        return mcnemar(self.only_first, self.only_second)


def compare(grid: Grid, subject: Subject = "defenses") -> list[Comparison]:
    """Compare the defenses of each victim, or the attacks on each method, each with each other one.

    Args:
        grid: The cells; two defenses are compared in each of its columns, the undefended one first, two attacks in each
            of its rows if they are of one threat model, criterion and query counting, and, where the grid is not read
            at each attack's own budget, at one number of queries.
        subject: What is compared.

    Returns:
        The comparisons, with Holm's p over all of them. Runs without a common image are not compared.
    """
    pairs = _defenses(grid) if subject == "defenses" else _attacks(grid)
    found = [_compared(*pair) for pair in pairs]
    found = [comparison for comparison in found if comparison.images]
    adjusted = holm([comparison.p for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, adjusted, strict=True)]


_Standing = tuple[Side, Cell]


def _defenses(grid: Grid) -> Iterator[tuple[_Standing, _Standing]]:
    victims = list(dict.fromkeys((row.method.victim, row.method.data) for row in grid.rows))
    for victim, i in itertools.product(victims, range(len(grid.columns))):
        rows = [row for row in grid.rows if (row.method.victim, row.method.data) == victim]
        rows.sort(key=lambda row: row.method.defense != "none")
        cells = [(_side(row.method, grid.columns[i]), cell) for row in rows if (cell := row.cells[i]) is not None]
        yield from itertools.combinations(cells, 2)


def _attacks(grid: Grid) -> Iterator[tuple[_Standing, _Standing]]:
    for row in grid.rows:
        filled = [(column, cell) for column, cell in zip(grid.columns, row.cells, strict=True) if cell is not None]
        for (first, one), (second, two) in itertools.combinations(filled, 2):
            alike = all(one.run.facts.as_dict()[name] == two.run.facts.as_dict()[name] for name in _ONE_THREAT)
            own = not (one.below_own or two.below_own)
            if alike and first.setting != second.setting and (own or one.budget == two.budget):
                yield (_side(row.method, first), one), (_side(row.method, second), two)


def _side(method: Method, column: Column) -> Side:
    return Side(method, column.setting.label, column.budget)


def _compared(first: _Standing, second: _Standing) -> Comparison:
    one, two = first[1], second[1]
    common = one.run.by_id.keys() & two.run.by_id.keys()
    pairs = zip(standing([one.run], common, one.budget), standing([two.run], common, two.budget), strict=True)
    counts = Counter(pairs)
    return Comparison(
        first[0],
        second[0],
        both=counts[True, True],
        only_first=counts[True, False],
        only_second=counts[False, True],
        neither=counts[False, False],
    )

"""Paired comparisons of the defenses of one victim, or of the attacks on it, on the same images."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rfdlight.core.statistics import mcnemar, wald
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


@dataclass(frozen=True)
class Comparison:
    """Two defenses under one attack, or two attacks on one method, on the images that both runs have.

    Attributes:
        first: The side A.
        second: The side B.
        images: Number of images that both runs have.
        both: Number of images that are robust in both runs; `only_first`, `only_second` and `neither` accordingly.
        difference: Robust accuracy of the second side minus that of the first, in [-1, 1].
        interval: 95 % interval of the difference.
        p: Of McNemar's exact test.
        p_holm: The p adjusted for all comparisons of a report.
    """

    first: Side
    second: Side
    images: int
    both: int
    only_first: int
    only_second: int
    neither: int
    difference: float
    interval: tuple[float, float]
    p: float
    p_holm: float = math.nan


def compare(grid: Grid, subject: Subject = "defenses") -> list[Comparison]:
    """Compare each pair of defenses of one victim, or each pair of attacks on one method.

    Args:
        grid: The cells. Two defenses are compared in each column, the undefended one first. Two attacks are compared
            in each row if they have one threat model, success criterion and query counting, and, where the grid does
            not show each attack at its own budget, one number of queries.
        subject: Whether defenses or attacks are compared.

    Returns:
        The comparisons, with Holm's p over all of them. Runs without a common image are not compared.
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


def paired_interval(only_first: int, only_second: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of the second share less the first one, of the same images.

    Half an observation is added to each of the four cells, then Wald's interval is taken: its coverage is
    near the nominal one also for few pairs, and it has a width if no pair is discordant.

    Source: Agresti and Min, Simple improved confidence intervals for comparing matched proportions, Statistics in
    Medicine 24, 2005.

    Args:
        only_first: Images that count for the first share alone.
        only_second: Images that count for the second one alone.
        images: All images, at least 1.

    Example:
        >>> low, high = paired_interval(86, 150, 1600)
        >>> print(f"{low:.3f} {high:.3f}")
        0.021 0.059
    """
    return wald(only_second - only_first, only_first + only_second + 1, images + 2)


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p values adjusted for their number; all claims with an adjusted p up to a level hold together at it.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6,
    1979.

    Example:
        >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03, 0.005])]
        [0.03, 0.06, 0.06, 0.02]
    """
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def _compared(first: Side, second: Side) -> Comparison | None:
    common = first.run.by_id.keys() & second.run.by_id.keys()
    if not common:
        return None
    robust = [standing([side.run], common, side.budget) for side in (first, second)]
    counts = Counter(zip(*robust, strict=True))
    both, one, two, neither = (counts[pair] for pair in itertools.product((True, False), repeat=2))
    images = len(common)
    interval = paired_interval(one, two, images)
    return Comparison(first, second, images, both, one, two, neither, (two - one) / images, interval, mcnemar(one, two))

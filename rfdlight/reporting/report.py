"""The content of a report, from which every output format is rendered."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rfdlight.records.runs import Run
from rfdlight.records.standard import CombinedRun
from rfdlight.reporting.caveats import caveats_of, warnings_of
from rfdlight.reporting.grid import Grid, Row, build_grid
from rfdlight.reporting.paired import Comparison, Side, Subject, compare
from rfdlight.reporting.tables import ball, side_by_side

READING_GRID = "Cell: robust accuracy (Definition 1), undecided images by sign. Clean: mean over the method's runs."
READING_STANDARD = (
    "standard-1: robust in every stage of the standard evaluation, each with that budget; below it at most, see the "
    "caveats; bounds: undecided images as adversarial, and as robust."
)
READING_WORST = (
    "Worst case: robust in every black-box run of the method with one norm, eps and query counting; runs with a "
    "surrogate are left out."
)
READING_PAIRS = (
    "B - A: gain in robust accuracy from A to B on common images, in points, with the 95% interval of Agresti and Min "
    "(2005). p: McNemar's exact test. p Holm: adjusted for all comparisons here."
)
READING_SHORT = "Only: images robust with the first of a pair alone : images robust with the second alone."
READING_CURVES = "Solid: robust accuracy (Definition 1), 95% band; dashed: by the first 9-vote success; dot: budget."

PAIR_HEAD = ("A", "B", "both", "only A", "only B", "neither", "B - A", "95% interval", "p", "p Holm")
SHORT_HEAD = ("pair", "only", "points", "95% interval", "p", "p Holm")
"""Heads of the comparisons' columns; both, only A, only B and neither are numbers of robust images."""


@dataclass(frozen=True)
class Report:
    """The parts of a report; `warnings` are the gravest caveats, which every format prints beside the numbers."""

    runs: Sequence[Run]
    grid: Grid
    subject: Subject
    comparisons: list[Comparison]
    warnings: list[str]
    caveats: list[str]
    details: list[tuple[str, list[str]]]

    @property
    def spans(self) -> list[tuple[str, int]]:
        """The labels above the columns of the grid, each with its number of columns."""
        groups = itertools.groupby(column.label for column in self.grid.columns)
        return [(label, len(list(group))) for label, group in groups]

    @property
    def reading(self) -> list[str]:
        """The lines that explain the grid."""
        balls = dict.fromkeys(ball(run.facts) for run in self.runs)
        images = _range(len(run.records) for run in self.runs)
        queries = _range(run.facts.budget for run in self.runs)
        lines = [
            f"Attacked in {' and '.join(balls)}, {images} images, budget {queries} queries per image.",
            READING_GRID,
        ]
        if any(isinstance(run, CombinedRun) for run in self.runs):
            lines.append(READING_STANDARD)
        if any(column.worst for column in self.grid.columns):
            lines.append(READING_WORST)
        return lines

    @property
    def paired_title(self) -> str:
        """The heading of the comparisons."""
        return f"{self.subject.capitalize()} on the same images"

    def on(self, pair: Comparison) -> str:
        """Return the victim, the attack or defense, and the queries that both sides of a comparison share."""
        common = pair.first.attack if self.subject == "defenses" else pair.first.row.defense
        queries = " and ".join(f"{budget:,}" for budget in dict.fromkeys((pair.first.budget, pair.second.budget)))
        return f"{pair.first.row.victim}: {common}, {queries} queries"

    def name(self, row: Row) -> str:
        """Return the defense of a row with its letter, which short comparisons use."""
        return f"{row.letter} {row.defense}" if self.comparisons else row.defense

    def short(self, side: Side) -> str:
        """Return the letter of a defense, or the name of an attack."""
        return side.row.letter if self.subject == "defenses" else side.attack

    def pair_cells(self, pair: Comparison) -> list[str]:
        """Return the texts of a comparison in the columns of `PAIR_HEAD`."""
        counts = (pair.both, pair.only_first, pair.only_second, pair.neither)
        sides = [side.row.defense if self.subject == "defenses" else side.attack for side in (pair.first, pair.second)]
        return [*sides, *(f"{count:,}" for count in counts), *_difference(pair)]

    def short_cells(self, pair: Comparison) -> list[str]:
        """Return the texts of a comparison in the columns of `SHORT_HEAD`."""
        only = f"{pair.only_second:,} : {pair.only_first:,}"
        return [f"{self.short(pair.second)} - {self.short(pair.first)}", only, *_difference(pair)]


def compile_report(runs: Sequence[Run], budgets: list[int] | None = None, subject: Subject = "defenses") -> Report:
    """Compute a report of at least one run at some budgets, by default each attack's own budget."""
    grid = build_grid(runs, budgets)
    caveats = caveats_of(runs, grid)
    return Report(runs, grid, subject, compare(grid, subject), warnings_of(runs), caveats, side_by_side(runs))


def _range(counts: Iterable[int]) -> str:
    """Return counts as text: one number, or the least and the most."""
    found = set(counts)
    return " to ".join(f"{count:,}" for count in dict.fromkeys((min(found), max(found))))


def _difference(pair: Comparison) -> list[str]:
    return [points(pair.difference), points_interval(pair.interval), p_text(pair.p), p_text(pair.p_holm)]


def points(share: float) -> str:
    """Return a difference of shares in percentage points, with its sign unless it is 0.0."""
    return f"{100 * share:+.1f}" if round(1000 * share) else "0.0"


def points_interval(bounds: tuple[float, float]) -> str:
    """Return the interval of a difference in percentage points."""
    return f"{points(bounds[0])} to {points(bounds[1])}"


def p_text(p: float) -> str:
    """Return a p value as text, such as 0.031, 0.0004 or <0.0001."""
    if p < 0.0001:
        return "<0.0001"
    return f"{p:.4f}" if p < 0.001 else f"{p:.2g}"

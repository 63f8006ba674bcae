"""Methods by attacks and budgets: the table in the shape of a paper's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rfdlight.errors import UserError
from rfdlight.records.runs import Run
from rfdlight.records.summary import Estimate, is_robust_at, robust_at
from rfdlight.reporting.settings import Method, Setting, is_white_box, method_of, settings_of


@dataclass(frozen=True)
class Column:
    """An attack with its settings, and a number of queries."""

    setting: Setting
    budget: int


@dataclass(frozen=True)
class Cell:
    """What a run's records say of one number of queries."""

    run: Run
    budget: int
    robust: Estimate
    lower: Estimate
    """With the undecided images as adversarial."""

    @property
    def below_own(self) -> bool:
        """Whether the run was given more queries than are read here."""
        return self.budget < self.run.facts.budget


@dataclass(frozen=True)
class WorstColumn:
    """A ball, how queries are billed, and a number of them; None is each run's own budget."""

    norm: str
    eps: float
    query_counting: str
    budget: int | None


@dataclass(frozen=True)
class Worst:
    """The share of the images that stand in every one of some runs."""

    runs: list[Run]
    attacks: list[str]
    robust: Estimate
    lower: Estimate
    all_images: int
    """Images of any of these runs; the shares are over those that all of them have."""


@dataclass(frozen=True)
class Row:
    """A method: the clean accuracy of its mean logits, a cell per column, and a worst case per worst column."""

    method: Method
    clean: Estimate
    cells: list[Cell | None]
    worst: list[Worst | None]


@dataclass(frozen=True)
class Grid:
    """The table: the attacks, their columns, the rows, and what has to be said of the runs."""

    settings: list[Setting]
    columns: list[Column]
    worst_columns: list[WorstColumn]
    rows: list[Row]
    notes: list[str]

    @property
    def cells(self) -> Iterator[Cell]:
        """Every cell that is not empty."""
        return (cell for row in self.rows for cell in row.cells if cell is not None)


def build_grid(runs: list[Run], budgets: list[int] | None = None) -> Grid:
    """Put runs into one table.

    A row is a method, in the order in which the runs were given. A column is an attack with its settings
    at a number of queries. A cell is the robust accuracy of the mean logits, read from the records.

    The worst case of a method counts an image as robust if it stands in every run of that method in one
    ball and under one query counting: of all attacks without gradients, `random_noise` among them, since who may
    ask a query may ask that one too. An attack with gradients belongs to another threat model and is left out.

    Args:
        runs: Of any methods and attacks.
        budgets: Numbers of queries; by default each attack's own.

    Raises:
        UserError: If a budget is larger than that of a run.
    """
    _check(budgets or [], runs)
    settings, notes = settings_of(runs)
    columns = [Column(setting, budget) for setting in settings for budget in budgets or _own_budgets(setting)]
    searches = [run for run in runs if not is_white_box(run)]
    common: Sequence[int | None] = budgets or [None]
    models = dict.fromkeys(map(_threat_model, searches))
    worst_columns = [WorstColumn(*model, budget) for model in models for budget in common]
    rows = []
    for method in dict.fromkeys(map(method_of, runs)):
        own = [run for run in runs if method_of(run) == method]
        cells = [_cell(column, method) for column in columns]
        worst = [_worst(settings, method, column) for column in worst_columns]
        rows.append(Row(method, pooled_clean(own), cells, worst))
    filled = [i for i in range(len(worst_columns)) if any(row.worst[i] for row in rows)]
    rows = [Row(row.method, row.clean, row.cells, [row.worst[i] for i in filled]) for row in rows]
    return Grid(settings, columns, [worst_columns[i] for i in filled], rows, notes)


def pooled_clean(runs: Sequence[Run]) -> Estimate:
    """Return the clean accuracy of the mean logits over every image that a run has.

    An image counts once, with the share of the runs that found it right: a random victim's clean draws are
    fresh in each run. The interval is for the number of images, and conservative, as Wilson's is for means of
    shares.
    """
    found: dict[str, list[bool]] = {}
    for run in runs:
        for record in run.records:
            found.setdefault(record.id, []).append(record.clean_correct)
    return Estimate.of(math.fsum(sum(right) / len(right) for right in found.values()), len(found))


def standing(runs: Iterable[Run], ids: Iterable[str], budget: int | None, undecided: bool = False) -> list[bool]:
    """Return whether each image stands in every run, after so many queries or at each run's own budget."""
    limits = [(run.by_id, run.facts.budget if budget is None else budget) for run in runs]
    return [all(is_robust_at(records[name], queries, undecided) for records, queries in limits) for name in ids]


def _check(budgets: list[int], runs: list[Run]) -> None:
    least = min(runs, key=lambda run: run.facts.budget)
    if budgets and max(budgets) > least.facts.budget:
        raise UserError(
            f"budgets must be at most {least.facts.budget:,}, the queries that {least.label} was given, "
            f"got {max(budgets):,}"
        )


def _own_budgets(setting: Setting) -> list[int]:
    return sorted({run.facts.budget for run in setting.runs.values()})


def _cell(column: Column, method: Method) -> Cell | None:
    run = column.setting.runs.get(method)
    if run is None or column.budget > run.facts.budget:
        return None
    lower = robust_at(run.records, column.budget, undecided=True)
    return Cell(run, column.budget, robust_at(run.records, column.budget), lower)


def _threat_model(run: Run) -> tuple[str, float, str]:
    return run.facts.norm, run.facts.eps, run.facts.query_counting


def _worst(settings: list[Setting], method: Method, column: WorstColumn) -> Worst | None:
    held = [(setting.label, setting.runs[method]) for setting in settings if method in setting.runs]
    chosen = [
        (label, run)
        for label, run in held
        if not is_white_box(run) and _threat_model(run) == (column.norm, column.eps, column.query_counting)
    ]
    runs = [run for _, run in chosen]
    common = set.intersection(*(set(run.by_id) for run in runs)) if runs else set()
    if len(runs) < 2 or not common:
        return None
    robust, lower = (
        Estimate.of(sum(standing(runs, common, column.budget, undecided)), len(common)) for undecided in (False, True)
    )
    return Worst(runs, [label for label, _ in chosen], robust, lower, len(set().union(*(run.by_id for run in runs))))

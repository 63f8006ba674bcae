"""The main table of a report, robust accuracy of methods by attacks and query budgets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from rfdlight.errors import UserError
from rfdlight.records.runs import Run
from rfdlight.records.standard import CombinedRun
from rfdlight.records.summary import Estimate, Undecided, is_robust_at
from rfdlight.reporting.settings import Method, Setting, method_of, settings_of
from rfdlight.reporting.tables import defense_name, short_victim


@dataclass(frozen=True)
class Column:
    """An attack with its settings at a number of queries, or the worst case over several attacks.

    `runs` holds the runs of each method by the label of their attack and settings: one, or those of the worst case.
    `budget` is None if each run is read at its own budget, and the budgets differ.
    """

    label: str
    budget: int | None
    runs: dict[Method, dict[str, Run]]
    worst: bool = False

    @property
    def queries(self) -> str:
        """The number of queries as text."""
        return "own budgets" if self.budget is None else f"{self.budget:,}"

    @property
    def heading(self) -> str:
        """Label and number of queries in one line."""
        return f"{self.label}, {self.queries}" + ("" if self.budget is None else " queries")


@dataclass(frozen=True)
class Cell:
    """The share of the images of all `runs` that are robust in every run after a number of queries.

    `lower` counts undecided images as adversarial, `upper` as robust. `runs` and `budget` are as in `Column`.
    """

    runs: dict[str, Run]
    budget: int | None
    robust: Estimate
    lower: Estimate
    upper: Estimate

    @property
    def below_own(self) -> Sequence[Run]:
        """The runs that had more queries than they are read at."""
        return [run for run in self.runs.values() if self.budget is not None and self.budget < run.facts.budget]

    @property
    def remark(self) -> str:
        """The number of several runs, or the bounds of a standard evaluation, as text; empty for another run."""
        if len(self.runs) > 1:
            return f"of {len(self.runs)} runs"
        standard = any(isinstance(run, CombinedRun) for run in self.runs.values())
        return f"bounds {100 * self.lower.value:.1f}-{100 * self.upper.value:.1f}" if standard else ""


@dataclass(frozen=True)
class Row:
    """A method: its short names, its clean accuracy, and one cell per column, None where there is no such run."""

    method: Method
    victim: str
    defense: str
    letter: str
    clean: Estimate
    cells: list[Cell | None]


@dataclass(frozen=True)
class Grid:
    """The table; columns of worst cases come last."""

    columns: list[Column]
    rows: list[Row]

    @property
    def filled(self) -> Iterator[tuple[Row, Column, Cell]]:
        """Every cell that is not empty, with its row and column, column by column."""
        for i, column in enumerate(self.columns):
            for row in self.rows:
                cell = row.cells[i]
                if cell is not None:
                    yield row, column, cell


def build_grid(runs: Sequence[Run], budgets: list[int] | None = None) -> Grid:
    """Compute the table of robust accuracies (Definition 1) at some budgets, by default each attack's own budget.

    The rows of a victim are together, in the order in which the runs were given. The worst case of a method counts an
    image as robust if it is robust in every run of the method with one norm, eps and query counting; white-box attacks
    and attacks with a surrogate are excluded, since they have other threat models.
    """
    least = min(runs, key=lambda run: run.facts.budget)
    if budgets and max(budgets) > least.facts.budget:
        raise UserError(
            f"budgets: expected at most {least.facts.budget:,}, the budget of {least.label}, got {max(budgets):,}"
        )
    settings = settings_of(runs)
    columns = [
        Column(label, budget, {method: {label: run} for method, run in of_setting.items()})
        for label, of_setting in settings
        for budget in budgets or sorted({run.facts.budget for run in of_setting.values()})
    ]
    own = {column.budget for column in columns}
    columns += _worst_columns(settings, budgets or [own.pop() if len(own) == 1 else None])
    victims = _victim_names(runs)
    order = list(victims.values())
    rows = []
    for i, method in enumerate(sorted(victims, key=lambda method: order.index(victims[method]))):
        letter = ascii_uppercase[i % 26] + (str(i // 26) if i >= 26 else "")
        clean = pooled_clean([run for run in runs if method_of(run) == method])
        cells = [_cell(column, method) for column in columns]
        rows.append(Row(method, victims[method], defense_name(method.defense), letter, clean, cells))
    return Grid(columns, rows)


def pooled_clean(runs: Sequence[Run]) -> Estimate:
    """Return the clean accuracy (Definition 1) over every image of the runs of one method.

    An image counts once, with the share of the runs that classify it correctly. The interval is for the number of
    images, and conservative, as Wilson's is for means of shares.
    """
    found: dict[str, list[bool]] = {}
    for run in runs:
        for image_id, record in run.by_id.items():
            found.setdefault(image_id, []).append(record.clean_correct)
    return Estimate.of(math.fsum(sum(right) / len(right) for right in found.values()), len(found))


def standing(runs: Iterable[Run], ids: Iterable[str], budget: int | None, undecided: Undecided = "sign") -> list[bool]:
    """Return whether each image is robust in every run, after a number of queries or at each run's own budget."""
    limits = [(run.by_id, run.facts.budget if budget is None else budget) for run in runs]
    return [all(is_robust_at(records[name], queries, undecided) for records, queries in limits) for name in ids]


def _victim_names(runs: Sequence[Run]) -> dict[Method, str]:
    """Return the victim of each method, as short as it is unique, with its data where these differ."""
    methods = dict.fromkeys(map(method_of, runs))
    victims = {method.victim for method in methods}
    unique = len(set(map(short_victim, victims))) == len(victims)
    names = {method: short_victim(method.victim) if unique else method.victim for method in methods}
    several = len({method.data for method in methods}) > 1
    return {method: f"{name} on {method.data}" if several else name for method, name in names.items()}


def _worst_columns(settings: list[Setting], budgets: Sequence[int | None]) -> list[Column]:
    """Return a worst case for each norm, eps and query counting in which a method has two runs on common images."""
    threats: dict[tuple[str, float, str], dict[Method, dict[str, Run]]] = {}
    for label, of_setting in settings:
        for method, run in of_setting.items():
            if not run.summary.ledger["gradient"] and run.facts.surrogate is None:
                shared = (run.facts.norm, run.facts.eps, run.facts.query_counting)
                threats.setdefault(shared, {}).setdefault(method, {})[label] = run
    several = {}
    for threat, of_threat in threats.items():
        methods = {method: found for method, found in of_threat.items() if len(found) > 1 and _common(found)}
        if methods:
            several[threat] = methods
    columns = []
    for (norm, eps, counting), methods in several.items():
        label = f"worst case, {norm} eps {eps:g}, {counting} query counting" if len(several) > 1 else "worst case"
        columns += [Column(label, budget, methods, worst=True) for budget in budgets]
    return columns


def _cell(column: Column, method: Method) -> Cell | None:
    runs = column.runs.get(method, {})
    own = {run.facts.budget for run in runs.values()}
    if not own or (column.budget is not None and column.budget > min(own)):
        return None
    budget = own.pop() if column.budget is None and len(own) == 1 else column.budget
    common = _common(runs)
    counts: tuple[Undecided, ...] = ("sign", "adversarial", "robust")
    shares = [Estimate.of(sum(standing(runs.values(), common, budget, each)), len(common)) for each in counts]
    return Cell(runs, budget, *shares)


def _common(runs: dict[str, Run]) -> set[str]:
    return set.intersection(*(set(run.by_id) for run in runs.values()))

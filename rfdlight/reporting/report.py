"""All that a report says, as text that every form of it shows alike."""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_uppercase

from rfdlight.records.runs import Run
from rfdlight.records.summary import Estimate
from rfdlight.reporting.caveats import notes_of, warnings_of
from rfdlight.reporting.grid import Grid, Row, Worst, build_grid
from rfdlight.reporting.paired import Comparison, Side, Subject, compare
from rfdlight.reporting.settings import Method
from rfdlight.reporting.side_by_side import side_by_side
from rfdlight.reporting.tables import short_victim

OWN_BUDGETS = "own budgets"
"""Stands for the number of queries where each run is read at its own budget, and these differ."""

READING_GRID = (
    "A cell is the robust accuracy of the mean logits over all images; an undecided image counts as robust. "
    "Clean: an image counts once, with the share of the method's runs that found it right."
)
READING_WORST = (
    "Worst case: an image counts if it stands in every run of the method, in that ball and under that query counting; "
    "attacks that are given gradients are left out, random_noise is not."
)
READING_PAIRS = (
    "B - A: gain in robust accuracy, in points, from A to B on the images that both runs have, with the 95% interval "
    "of Agresti and Min (2005). p: McNemar's exact test. p Holm: adjusted for all comparisons here."
)
READING_CURVES = (
    "Solid: robust accuracy of the mean logits, with its 95% band; dashed: by the first majority of 9 votes. A dot "
    "beside a curve marks its end, at the run's budget."
)
READING_LETTERS = "Only: the images that stand behind the one alone, and behind the other alone."


@dataclass(frozen=True)
class Heading:
    """What stands above a column of the grid: an attack, and a number of queries."""

    attack: str
    queries: str

    @property
    def line(self) -> str:
        """Both in one line."""
        return f"{self.attack}, {self.queries}" + ("" if self.queries == OWN_BUDGETS else " queries")


@dataclass(frozen=True)
class Report:
    """The parts of a report."""

    runs: list[Run]
    grid: Grid
    subject: Subject
    comparisons: list[Comparison]
    notes: list[str]
    details: list[tuple[str, list[str]]]

    @property
    def warnings(self) -> list[str]:
        """The notes that its numbers must not be shown without."""
        return warnings_of(self.runs)

    def victim(self, method: Method) -> str:
        """Return a victim's name as short as the report allows, with its data where these differ."""
        methods = [row.method for row in self.grid.rows]
        victims = {other.victim for other in methods}
        unique = len({short_victim(victim) for victim in victims}) == len(victims)
        name = short_victim(method.victim) if unique else method.victim
        return f"{name} on {method.data}" if len({other.data for other in methods}) > 1 else name

    def name(self, method: Method) -> str:
        """Return a method in one line, without its victim where there is one victim alone."""
        victim = self.victim(method)
        alone = len({self.victim(row.method) for row in self.grid.rows}) == 1
        return defense_text(method) if alone else f"{victim}, {defense_text(method)}"

    def by_victim(self) -> dict[str, list[Row]]:
        """Return the rows below each victim's name."""
        rows: dict[str, list[Row]] = {}
        for row in self.grid.rows:
            rows.setdefault(self.victim(row.method), []).append(row)
        return rows

    def letters(self) -> dict[Method, str]:
        """Return a letter for each method, by which short forms of the comparisons call it: A, B, ..., Z, A1, ..."""
        rows = enumerate(self.grid.rows)
        return {row.method: ascii_uppercase[i % 26] + (str(i // 26) if i >= 26 else "") for i, row in rows}

    @property
    def paired_title(self) -> str:
        """What the comparisons are of."""
        return f"{self.subject.capitalize()} on the same images"

    def compared(self, side: Side) -> str:
        """Return what a side of a comparison stands for there."""
        return defense_text(side.method) if self.subject == "defenses" else side.attack

    def shared(self, pair: Comparison) -> str:
        """Return what both sides of a comparison have in common, beside their victim."""
        return pair.first.attack if self.subject == "defenses" else defense_text(pair.first.method)

    def grouped(self) -> dict[str, list[Comparison]]:
        """Return the comparisons below what their sides have in common."""
        pairs: dict[str, list[Comparison]] = {}
        for pair in self.comparisons:
            heading = f"{self.victim(pair.first.method)}: {self.shared(pair)}, {queries_text(pair)} queries"
            pairs.setdefault(heading, []).append(pair)
        return pairs

    def pair_cells(self, pair: Comparison) -> list[str]:
        """Return a comparison as text, below `PAIR_HEAD`."""
        return [
            self.compared(pair.first),
            self.compared(pair.second),
            *(f"{count:,}" for count in (pair.both, pair.only_first, pair.only_second, pair.neither)),
            points(pair.difference),
            points_interval(pair.interval),
            p_text(pair.p),
            p_text(pair.p_holm),
        ]

    def headings(self) -> list[Heading]:
        """Return what stands above the attacks' columns and the worst cases'."""
        columns = self.grid.columns
        headings = [Heading(column.setting.label, f"{column.budget:,}") for column in columns]
        several_balls = len({(worst.norm, worst.eps) for worst in self.grid.worst_columns}) > 1
        several_bills = len({worst.query_counting for worst in self.grid.worst_columns}) > 1
        same = len({column.budget for column in columns}) == 1
        for worst in self.grid.worst_columns:
            budget = columns[0].budget if worst.budget is None and same else worst.budget
            label = f"worst case, {worst.norm} {worst.eps:g}" if several_balls else "worst case"
            label += f", query counting {worst.query_counting}" if several_bills else ""
            headings.append(Heading(label, OWN_BUDGETS if budget is None else f"{budget:,}"))
        return headings

    def shares(self, row: Row) -> list[Estimate | None]:
        """Return the robust accuracies of a row, one per heading."""
        return [None if cell is None else cell.robust for cell in [*row.cells, *row.worst]]

    def remarks(self, row: Row) -> list[str]:
        """Return what is said below each of these: of how many runs a worst case is."""
        return ["" if not isinstance(cell, Worst) else f"of {len(cell.runs)} runs" for cell in [*row.cells, *row.worst]]

    def reading(self) -> list[str]:
        """Return how the grid is read."""
        balls = list(dict.fromkeys(f"{run.facts.norm} eps {run.facts.eps:.4g}" for run in self.runs))
        attacked = [f"Attacked in {' and '.join(balls)}."]
        return [*attacked, READING_GRID, *([READING_WORST] if self.grid.worst_columns else [])]


def compile_report(runs: list[Run], budgets: list[int] | None = None, subject: Subject = "defenses") -> Report:
    """Compute everything that a report says.

    Args:
        runs: At least one.
        budgets: Numbers of queries at which the grid is read; by default each attack's own budget.
        subject: What is compared on the same images.

    Raises:
        UserError: If a budget is larger than that of a run.
    """
    grid = build_grid(runs, budgets)
    return Report(runs, grid, subject, compare(grid, subject), notes_of(runs, grid), side_by_side(runs))


def defense_text(method: Method) -> str:
    """Return a defense as text."""
    return "undefended" if method.defense == "none" else method.defense


def points(share: float) -> str:
    """Return a difference of shares in percentage points, with its sign.

    Example:
        >>> points(0.125), points(-0.5), points(0.0)
        ('+12.5', '-50.0', '0.0')
    """
    return f"{100 * share:+.1f}" if round(1000 * share) else "0.0"


def points_interval(bounds: tuple[float, float]) -> str:
    """Return the interval of a difference in points."""
    return f"{points(bounds[0])} to {points(bounds[1])}"


def p_text(p: float) -> str:
    """Return a p value as text.

    Example:
        >>> p_text(0.00001), p_text(0.0312), p_text(0.00042), p_text(1.0)
        ('<0.0001', '0.031', '0.0004', '1')
    """
    if p < 0.0001:
        return "<0.0001"
    return f"{p:.4f}" if p < 0.001 else f"{p:.2g}"


PAIR_HEAD = ("A", "B", "both", "only A", "only B", "neither", "B - A", "95% interval", "p", "p Holm")
"""What stands above the columns of the comparisons; both, only A, only B and neither count standing images."""


def queries_text(pair: Comparison) -> str:
    """Return the numbers of queries after which two sides are compared: one, or that of each."""
    return " and ".join(f"{budget:,}" for budget in dict.fromkeys((pair.first.budget, pair.second.budget)))

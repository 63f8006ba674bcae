"""A report as comma-separated values, unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rfdlight.records.facts import ROWS, RunFacts
from rfdlight.records.summary import Estimate, robust_at
from rfdlight.reporting.details import common_budget
from rfdlight.reporting.grid import Cell, Row
from rfdlight.reporting.report import Report
from rfdlight.reporting.tables import accuracies, is_known

WORST_CASE = "worst case"
"""The `attack` of a line that is a worst case; its `run` names the runs, with "+" between."""

PAIRED_FIELDS = (
    "victim", "data", "defense_a", "attack_a", "budget_a", "defense_b", "attack_b", "budget_b", "images", "both",
    "only_a", "only_b", "neither", "difference", "difference_low", "difference_high", "p", "p_holm",
)  # fmt: skip
"""The columns of the comparisons."""

_NO_COLUMN = (
    "name", "totals", "failed", "in_progress", "selection", "classes", "num_classes", "batch_size", "batch_size_used",
    "card", "card_data", "clean_accuracy_warning", "random", "sanity_checks", "processes", "foreign", "forwarded",
    "attempts", "killed_attempts", "damaged_lines",
)  # fmt: skip
"""Facts of a run that are not written, or are written in other columns."""


def grid_csv(report: Report) -> str:
    """Return one line for each cell of the grid: all numbers of its run, and the robust accuracy at its budget.

    The worst cases follow, with fewer columns filled.
    """
    common = common_budget(report.runs)
    order = {run.label: i for i, run in enumerate(report.runs)}
    single = [(row, cell) for row, column, cell in report.grid.filled if not column.worst]
    lines = [_run_line(row, cell, common) for row, cell in single]
    lines.sort(key=lambda line: (order[line["run"]], line["at_budget"]))
    worst = [_worst_line(row, cell) for row, column, cell in report.grid.filled if column.worst]
    return _csv(list(lines[0]), [*lines, *worst])


def paired_csv(report: Report) -> str:
    """Return one line for each comparison; the difference and its interval are shares, B minus A."""
    lines = []
    for pair in report.comparisons:
        method = pair.first.row.method
        sides = [
            value for side in (pair.first, pair.second) for value in (side.row.method.defense, side.attack, side.budget)
        ]
        counts = (pair.images, pair.both, pair.only_first, pair.only_second, pair.neither)
        tested_candidates = (pair.difference, *pair.interval, pair.p, pair.p_holm)
        values = (method.victim, method.data, *sides, *counts, *tested_candidates)
        lines.append(dict(zip(PAIRED_FIELDS, values, strict=True)))
    return _csv(PAIRED_FIELDS, lines)


def _run_line(row: Row, cell: Cell, common: int) -> dict[str, Any]:
    (run,) = cell.runs.values()
    ledger = dict(run.summary.ledger)
    rows = {f"{kind}_rows": ledger.pop(kind) for kind in ROWS}
    return {
        "run": run.label,
        **{name: getattr(run.facts, name) for name in RunFacts.__struct_fields__ if name not in _NO_COLUMN},
        "failed": len(run.facts.failed),
        **_at_budget(row, cell),
        **run.summary.counts,
        **_bounds(**accuracies(run.summary), robust_at_common_budget=robust_at(run.records, common)),
        "common_budget": common,
        **run.summary.adversarial_images,
        **rows,
        **ledger,
    }


def _worst_line(row: Row, cell: Cell) -> dict[str, Any]:
    runs = list(cell.runs.values())
    return {
        "run": " + ".join(run.label for run in runs),
        "attack": WORST_CASE,
        **{name: getattr(runs[0].facts, name) for name in ("norm", "eps", "query_counting")},
        "victim": row.method.victim,
        "defense": row.method.defense,
        "data": row.method.data,
        "images": cell.robust.total,
        **_at_budget(row, cell),
    }


def _at_budget(row: Row, cell: Cell) -> dict[str, Any]:
    return {
        "at_budget": cell.budget,
        **_bounds(robust_at_budget=cell.robust, robust_lower_at_budget=cell.lower, method_clean=row.clean),
    }


def _bounds(**shares: Estimate | None) -> dict[str, float | None]:
    """Return three columns per share: its value and both ends of its interval."""
    line: dict[str, float | None] = {}
    for name, share in shares.items():
        value, low, high = (share.value, share.low, share.high) if is_known(share) else (None, None, None)
        line |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return line


def _csv(fields: Sequence[str], lines: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: _inert(value) for name, value in line.items()} for line in lines])
    return text.getvalue()


def _inert(value: Any) -> Any:
    """Return a cell that no spreadsheet evaluates as a formula: an apostrophe precedes text that begins like one."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value

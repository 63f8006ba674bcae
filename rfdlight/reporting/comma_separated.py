"""A report as comma-separated values, unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict

from rfdlight.records.facts import ROWS
from rfdlight.records.summary import Estimate, robust_at
from rfdlight.reporting.grid import Cell, Row
from rfdlight.reporting.paired import Comparison
from rfdlight.reporting.report import Report
from rfdlight.reporting.tables import accuracies, common_budget, is_known

_PAIRED = (
    "victim", "data", "defense_a", "attack_a", "budget_a", "defense_b", "attack_b", "budget_b", "images", "both",
    "only_a", "only_b", "neither", "difference", "difference_low", "difference_high", "p", "p_holm",
)  # fmt: skip

_STRUCTURED = {"totals", "failed", "in_progress", "classes", "card", "random", "sanity_checks"}
"""Facts of a run that are no single value."""


def grid_csv(report: Report) -> str:
    """Return one line per cell of a single run, then one line per worst case, with fewer columns filled.

    The `run` of a worst case names its runs, with "+" between.
    """
    common = common_budget(report.runs)
    order = {run.label: i for i, run in enumerate(report.runs)}
    lines = [_run_line(row, cell, common) for row, column, cell in report.grid.filled if not column.worst]
    lines.sort(key=lambda line: (order[line["run"]], line["at_budget"]))
    worst = [_worst_line(row, cell) for row, column, cell in report.grid.filled if column.worst]
    return _csv(list(lines[0]), [*lines, *worst])


def paired_csv(report: Report) -> str:
    """Return one line per comparison; the difference and its interval are shares, B minus A."""
    return _csv(_PAIRED, [dict(zip(_PAIRED, _pair(pair), strict=True)) for pair in report.comparisons])


def _run_line(row: Row, cell: Cell, common: int) -> dict[str, Any]:
    (run,) = cell.runs.values()
    ledger = dict(run.summary.ledger)
    rows = {f"{kind}_rows": ledger.pop(kind) for kind in ROWS}
    return {
        "run": run.label,
        **{name: value for name, value in asdict(run.facts).items() if name not in _STRUCTURED},
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
        "attack": "worst case",
        **{name: getattr(runs[0].facts, name) for name in ("norm", "eps", "query_counting")},
        **vars(row.method),
        "images": cell.robust.total,
        **_at_budget(row, cell),
    }


def _at_budget(row: Row, cell: Cell) -> dict[str, Any]:
    shares = _bounds(
        robust_at_budget=cell.robust,
        robust_lower_at_budget=cell.lower,
        robust_upper_at_budget=cell.upper,
        method_clean=row.clean,
    )
    return {"at_budget": cell.budget, **shares}


def _bounds(**shares: Estimate | None) -> dict[str, float | None]:
    """Return three columns per share: its value and both ends of its interval."""
    line: dict[str, float | None] = {}
    for name, share in shares.items():
        value, low, high = (share.value, share.low, share.high) if is_known(share) else (None, None, None)
        line |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return line


def _pair(pair: Comparison) -> list[Any]:
    method = pair.first.row.method
    sides = [(side.row.method.defense, side.attack, side.budget) for side in (pair.first, pair.second)]
    counts = (pair.images, pair.both, pair.only_first, pair.only_second, pair.neither)
    tests = (pair.difference, *pair.interval, pair.p, pair.p_holm)
    return [method.victim, method.data, *sides[0], *sides[1], *counts, *tests]


def _csv(fields: Sequence[str], lines: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: _inert(value) for name, value in line.items()} for line in lines])
    return text.getvalue()


def _inert(value: Any) -> Any:
    """Return a cell that no spreadsheet evaluates as a formula: an apostrophe precedes text that begins like one."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value

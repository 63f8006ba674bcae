"""A report as comma-separated values, unrounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rfdlight.records.facts import ROWS
from rfdlight.records.runs import Run
from rfdlight.records.summary import Estimate, robust_at
from rfdlight.reporting.grid import Cell, Row, Worst
from rfdlight.reporting.paired import Side
from rfdlight.reporting.report import Report
from rfdlight.reporting.side_by_side import common_budget

WORST_CASE = "worst case"

_FACTS = (
    "attack", "options", "norm", "eps", "budget", "criterion", "query_counting", "eot", "targeted", "precision",
    "victim", "data", "defense", "seed", "wall_seconds", "deterministic", "complete", "num_images",
)  # fmt: skip

"""Stands in the column `attack` of a line that is a worst case; its `run` names the runs, with "+" between."""

PAIRED_FIELDS = (
    "victim", "data", "defense_a", "attack_a", "budget_a", "defense_b", "attack_b", "budget_b", "images", "both",
    "only_a", "only_b", "neither", "difference", "difference_low", "difference_high", "p", "p_holm",
)  # fmt: skip
"""The columns of the comparisons."""


def grid_csv(report: Report) -> str:
    """Return one line for each cell of the grid, in long form: all numbers of its run, and those at its budget.

    The worst cases follow, with what is known of them.
    """
    common = common_budget(report.runs)
    cells = [(row, cell) for row in report.grid.rows for cell in row.cells if cell is not None]
    order = {run.label: i for i, run in enumerate(report.runs)}
    cells.sort(key=lambda found: (order[found[1].run.label], found[1].budget))
    lines = [_run_line(row, cell, common) for row, cell in cells]
    for i, column in enumerate(report.grid.worst_columns):
        lines += [
            _worst_line(row, worst, column.budget) for row in report.grid.rows if (worst := row.worst[i]) is not None
        ]
    return _csv(list(lines[0]), lines)


def paired_csv(report: Report) -> str:
    """Return one line for each comparison; the difference and its interval are shares, B less A."""
    return _csv(
        PAIRED_FIELDS,
        [
            {
                "victim": pair.first.method.victim,
                "data": pair.first.method.data,
                **_side("a", pair.first),
                **_side("b", pair.second),
                "images": pair.images,
                "both": pair.both,
                "only_a": pair.only_first,
                "only_b": pair.only_second,
                "neither": pair.neither,
                "difference": pair.difference,
                "difference_low": pair.interval[0],
                "difference_high": pair.interval[1],
                "p": pair.p,
                "p_holm": pair.p_holm,
            }
            for pair in report.comparisons
        ],
    )


def _side(name: str, side: Side) -> dict[str, Any]:
    return {f"defense_{name}": side.method.defense, f"attack_{name}": side.attack, f"budget_{name}": side.budget}


def _csv(fields: Sequence[str], lines: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: _inert(value) for name, value in line.items()} for line in lines])
    return text.getvalue()


def _inert(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: text that begins like one gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def _run_line(row: Row, cell: Cell, common: int) -> dict[str, Any]:
    run, summary = cell.run, cell.run.summary
    line: dict[str, Any] = {"run": run.label}
    line |= {name: run.facts.as_dict()[name] for name in _FACTS}
    line["failed"] = len(run.facts.failed)
    line["at_budget"] = cell.budget
    line |= _bounds("robust_at_budget", cell.robust) | _bounds("robust_lower_at_budget", cell.lower)
    line |= _bounds("method_clean", row.clean) | summary.counts
    for name, share in _shares(run, common).items():
        line |= _bounds(name, share)
    line["common_budget"] = common
    ledger = dict(summary.ledger)
    rows = {f"{kind}_rows": ledger.pop(kind) for kind in ROWS}
    return line | summary.adversarial_images | rows | ledger


def _worst_line(row: Row, worst: Worst, budget: int | None) -> dict[str, Any]:
    facts = worst.runs[0].facts
    own = {run.facts.budget for run in worst.runs}
    if budget is None and len(own) == 1:
        (budget,) = own
    return {
        "run": " + ".join(run.label for run in worst.runs),
        "attack": WORST_CASE,
        "norm": facts.norm,
        "eps": facts.eps,
        "query_counting": facts.query_counting,
        "victim": row.method.victim,
        "defense": row.method.defense,
        "data": row.method.data,
        "at_budget": budget,
        "images": worst.robust.total,
        **_bounds("robust_at_budget", worst.robust),
        **_bounds("robust_lower_at_budget", worst.lower),
        **_bounds("method_clean", row.clean),
    }


def _shares(run: Run, common: int) -> dict[str, Estimate | None]:
    summary = run.summary
    return {
        "clean": summary.mean_logits.clean,
        "robust": summary.mean_logits.robust,
        "robust_lower": summary.mean_logits.robust_lower,
        "robust_at_common_budget": robust_at(run.records, common),
        "declared": summary.declared,
        "first_9_vote_success": summary.first_9_vote_success,
        "single_query_clean": summary.single_query.clean,
        "single_query_robust": summary.single_query.robust,
        "attack_success": summary.attack_success,
    }


def _bounds(name: str, share: Estimate | None) -> dict[str, float | None]:
    if share is None or not share.total:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}

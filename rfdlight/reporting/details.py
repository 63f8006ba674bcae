"""Runs side by side: every setting and number of each run."""

from __future__ import annotations

from collections.abc import Sequence

from rfdlight.records.runs import Run
from rfdlight.records.summary import robust_at
from rfdlight.reporting.tables import attack_name, ball, results, with_interval

_UNREMARKABLE = {"options": "defaults", "evaluations per query": "1"}
"""Rows that are left out if they read the same for every run."""


def common_budget(runs: Sequence[Run]) -> int:
    """Return the smallest budget of some runs."""
    return min(run.facts.budget for run in runs)


def side_by_side(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return the rows of the table: a name, indented where it belongs to the one above, and a text per run."""
    common = common_budget(runs)
    columns = [_settings(run) | results(run.summary) for run in runs]
    if len({run.facts.budget for run in runs}) > 1:
        for run, column in zip(runs, columns, strict=True):
            column[f"robust accuracy at {common:,} queries"] = with_interval(robust_at(run.records, common))
    rows = [(name, [column[name] for column in columns]) for name in columns[0]]
    return [(name, cells) for name, cells in rows if set(cells) != {_UNREMARKABLE.get(name)}]


def _settings(run: Run) -> dict[str, str]:
    facts = run.facts
    return {
        "attack": attack_name(facts),
        "options": facts.options,
        "victim": facts.victim,
        "defense": facts.defense or "none",
        "data": facts.data,
        "ball": ball(facts),
        "queries per image": f"{facts.budget:,}",
        "success criterion": facts.criterion,
        "query counting": facts.query_counting,
        "evaluations per query": str(facts.eot),
        "precision": facts.precision,
    }

"""A report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rfdlight.errors import one_line
from rfdlight.reporting.report import PAIR_HEAD, READING_PAIRS, Report, defense_text, queries_text
from rfdlight.reporting.side_by_side import with_interval


def markdown(report: Report) -> str:
    """Return a report as Markdown: grid, comparisons, runs side by side, notes, and a link to `curves.png`."""
    parts = ["# Robust accuracy", _grid(report), *report.reading()]
    if report.comparisons:
        parts += [f"# {report.paired_title}", _pairs(report), READING_PAIRS]
    head = ["", *(run.label for run in report.runs)]
    details = _table(head, [[label.strip(), *cells] for label, cells in report.details])
    notes = "\n".join(f"- {_escape(note)}" for note in report.notes)
    parts += ["# Runs side by side", details, notes, "![robust accuracy against queries](curves.png)"]
    return "\n\n".join(parts) + "\n"


def _grid(report: Report) -> str:
    head = ["victim", "defense", "clean", *(heading.line for heading in report.headings())]
    rows = []
    for victim, methods in report.by_victim().items():
        for row in methods:
            cells = [
                f"{with_interval(share)} {remark}".strip()
                for share, remark in zip(report.shares(row), report.remarks(row), strict=True)
            ]
            rows.append([victim, defense_text(row.method), with_interval(row.clean), *cells])
    return _table(head, rows)


def _pairs(report: Report) -> str:
    rows = [
        [report.victim(pair.first.method), report.shared(pair), queries_text(pair), *report.pair_cells(pair)]
        for pair in report.comparisons
    ]
    return _table(["victim", "attack" if report.subject == "defenses" else "defense", "queries", *PAIR_HEAD], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)


def _escape(text: str) -> str:
    """Return text of a run's as Markdown that shows it as it is; not every "_" and "<" means something there."""
    return re.sub(r"[\\|&*`\[]|<(?=[a-zA-Z/!?])|(?<!\w)_|_(?!\w)", r"\\\g<0>", one_line(text))

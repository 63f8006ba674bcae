"""Writes the files of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from rfdlight._io import write_file
from rfdlight.errors import UserError
from rfdlight.records.runs import Run
from rfdlight.reporting.comma_separated import grid_csv, paired_csv
from rfdlight.reporting.formats import html_page, latex, markdown
from rfdlight.reporting.gallery import examples
from rfdlight.reporting.paired import Subject
from rfdlight.reporting.plots import KINDS, Curve, draw_curves, draw_panels, encoded
from rfdlight.reporting.report import Report, compile_report
from rfdlight.reporting.tables import run_title

FILES = ("curves.pdf", "curves.png", "paired.csv", "report.csv", "report.html", "report.md", "report.tex")
"""The files of a report."""

_IN_ONE_PANEL = 4
"""Largest number of curves in one panel; more are hard to distinguish."""


def write_report(
    runs: Sequence[Run], folder: str | Path, budgets: list[int] | None = None, compare: Subject = "defenses"
) -> Report:
    """Write the files of a report, `FILES`, after all of them are rendered; return its content."""
    folder = Path(folder)
    if (folder / "records.jsonl").exists():
        raise UserError(f"output: expected a folder for the report, got the run directory {folder}; choose another")
    report = compile_report(runs, budgets, compare)
    galleries = [(run, examples(run)) for run in runs]
    figure = _curves(report)
    curves = {f"curves.{kind}": encoded(figure, kind) for kind in KINDS}
    files: dict[str, str | bytes] = {
        **curves,
        "report.html": html_page(report, curves["curves.png"], galleries),
        "report.md": markdown(report),
        "report.tex": latex(report),
        "report.csv": grid_csv(report),
        "paired.csv": paired_csv(report),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the report to {folder}: {error.strerror}") from error
    for name, content in files.items():
        write_file(folder / name, content)
    return report


def _curves(report: Report) -> Figure:
    """Return the curves: a few runs in one panel, more runs in one panel per attack."""
    runs, rows = report.runs, report.grid.rows
    attacks = {column.label: column.runs for column in report.grid.columns if not column.worst}
    if len(attacks) == 1 or len(runs) <= _IN_ONE_PANEL:
        title = run_title(runs[0].facts) if len(runs) == 1 else ""
        return draw_curves([(run.label, run.records, run.facts.budget) for run in runs], title)
    several = len({row.victim for row in rows}) > 1
    names = {row.method: f"{row.victim}, {row.defense}" if several else row.defense for row in rows}
    panels: dict[str, list[Curve]] = {label: [] for label in attacks}
    for label, methods in attacks.items():
        for method, of_method in methods.items():
            panels[label] += [(names[method], run.records, run.facts.budget) for run in of_method.values()]
    return draw_panels(list(panels.items()))

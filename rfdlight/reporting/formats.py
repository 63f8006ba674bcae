"""A report as an HTML page, as LaTeX tables and as Markdown."""

from __future__ import annotations

import re

import rfdlight
from rfdlight.errors import one_line
from rfdlight.records.runs import Run
from rfdlight.records.summary import Estimate
from rfdlight.reporting import report as texts
from rfdlight.reporting import tables
from rfdlight.reporting.gallery import MOST, Example
from rfdlight.reporting.report import Report
from rfdlight.reporting.templates import Source, escape_latex, render_html, render_latex


def html_page(report: Report, curves: bytes, galleries: list[tuple[Run, list[Example]]]) -> str:
    """Return a report as one HTML page without external files, with the curves, a PNG file, and the images of runs."""
    values = {"curves": curves, "galleries": galleries, "most": MOST, "version": rfdlight.__version__}
    return render_html("report.html.j2", report=report, texts=texts, tables=tables, **values)


def markdown(report: Report) -> str:
    """Return a report as Markdown: grid, comparisons, runs side by side, caveats, and a link to `curves.png`."""
    grid = [["victim", "defense", "clean", *(column.heading for column in report.grid.columns)]]
    for row in report.grid.rows:
        cells = [f"{tables.with_interval(cell.robust)} {cell.remark}".strip() if cell else "-" for cell in row.cells]
        grid.append([row.victim, row.defense, tables.with_interval(row.clean), *cells])
    pairs = [["on", *texts.PAIR_HEAD]]
    pairs += [[report.on(pair), *report.pair_cells(pair)] for pair in report.comparisons]
    details = [["", *(run.label for run in report.runs)]]
    details += [[label.strip(), *cells] for label, cells in report.details]
    parts = ["# Robust accuracy", _markdown_table(grid), *report.reading]
    if report.comparisons:
        parts += [f"# {report.paired_title}", _markdown_table(pairs), texts.READING_PAIRS]
    caveats = "\n".join(f"- {_escape_markdown(caveat)}" for caveat in report.caveats)
    parts += ["# Runs side by side", _markdown_table(details), caveats]
    return "\n\n".join([*parts, "![robust accuracy against queries](curves.png)"]) + "\n"


def _markdown_table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(map(_escape_markdown, line))} |" for line in lines)


def _escape_markdown(text: str) -> str:
    """Return text as Markdown that shows it as it is; only some "_" and "<" have a meaning in Markdown."""
    return re.sub(r"[\\|&*`\[]|<(?=[a-zA-Z/!?])|(?<!\w)_|_(?!\w)", r"\\\g<0>", one_line(text))


def latex(report: Report) -> str:
    r"""Return the grid and the comparisons as LaTeX tables for `\input`, which need the packages booktabs and array.

    All caveats are comments above the tables; the gravest ones also stand in the captions.
    """
    spans, first = [], 3
    for label, width in report.spans:
        spans.append((label, width, f"{first}-{first + width - 1}"))
        first += width
    return render_latex("report.tex.j2", report=report, texts=texts, spans=spans, cell=_latex_cell)


def _latex_cell(share: Estimate, remark: str = "") -> Source:
    if not tables.is_known(share):
        return Source("--")
    below = tables.bounds(share, "--") + (rf"\\[-1pt]\scriptsize {escape_latex(remark)}" if remark else "")
    return Source(f"\\rfdcell{{{100 * share.value:.1f}}}{{{below}}}")

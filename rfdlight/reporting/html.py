"""A report as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable
from html import escape

import rfdlight
from rfdlight.records.records import Record
from rfdlight.records.runs import Run
from rfdlight.records.summary import Estimate
from rfdlight.reporting.gallery import MOST, Example, channels_note
from rfdlight.reporting.page_style import STYLE
from rfdlight.reporting.report import PAIR_HEAD, READING_CURVES, READING_PAIRS, Heading, Report, defense_text
from rfdlight.reporting.settings import method_of
from rfdlight.reporting.tables import attack_name, audit_line, number, percent


def html_page(report: Report, curves: bytes, galleries: list[list[Example]]) -> str:
    """Return a report as an HTML page.

    Args:
        report: What is shown.
        curves: The picture of the robust accuracies, a PNG file.
        galleries: The images of each run; a run without any has no gallery.
    """
    runs = len(report.runs)
    parts = [
        "<h1>Robust accuracy</h1>",
        _reading(f"Of {runs} run{'s' if runs > 1 else ''}; every number is computed from their records."),
        _scrolling(_grid(report)),
        *(_reading(line) for line in report.reading()),
    ]
    if report.comparisons:
        parts += [f"<h2>{report.paired_title}</h2>", _scrolling(_pairs(report)), _reading(READING_PAIRS)]
    parts += ["<h2>What to know before believing these numbers</h2>", "<ul>"]
    parts += [f"<li>{escape(note)}</li>" for note in report.notes]
    parts += [
        "</ul>",
        "<h2>Robust accuracy against queries</h2>",
        _picture(curves, "Curves of robust accuracy", "curves"),
        _reading(READING_CURVES),
    ]
    parts += _galleries(report.runs, galleries)
    parts += ["<h2>Audit</h2>", *map(_audit, report.runs)]
    parts += ["<h2>Runs side by side</h2>", _scrolling(_details(report)), "<h2>Configurations</h2>"]
    parts += [_configuration(run) for run in report.runs]
    parts.append(f"<footer>Written by rfdlight {escape(rfdlight.__version__)}.</footer>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Robust accuracy</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _reading(text: str) -> str:
    return f'<p class="reading">{escape(text)}</p>'


def _scrolling(table: str) -> str:
    return f'<div class="wide">{table}</div>'


def _picture(png: bytes, alt: str, kind: str = "") -> str:
    data = base64.b64encode(png).decode()
    return f'<img class="{kind}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def _row(cells: Iterable[str], kind: str = "") -> str:
    return f'<tr class="{kind}">{"".join(cells)}</tr>' if kind else f"<tr>{''.join(cells)}</tr>"


def _head(text: str, kind: str = "", span: int = 1) -> str:
    return f'<th class="{kind}" colspan="{span}">{escape(text)}</th>' if kind else f"<th>{escape(text)}</th>"


def _cell(text: str, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _grid(report: Report) -> str:
    headings = report.headings()
    lines = ["<table>", "<thead>", *_grid_head(headings), "</thead>", "<tbody>"]
    for victim, rows in report.by_victim().items():
        lines.append(_row([_head(victim, "group", span=len(headings) + 2)], "group"))
        for row in rows:
            shares = zip(report.shares(row), report.remarks(row), strict=True)
            cells = [_share(share, remark) for share, remark in shares]
            lines.append(_row([_head(defense_text(row.method)), _share(row.clean), *cells]))
    return "\n".join([*lines, "</tbody>", "</table>"])


def _grid_head(headings: list[Heading]) -> list[str]:
    over = [(attack, len(list(group))) for attack, group in itertools.groupby(heading.attack for heading in headings)]
    return [
        _row(["<th></th>", "<th></th>", *(_head(attack, "span", span) for attack, span in over)]),
        _row([_head("defense"), _head("clean", "number"), *(_head(_query_step(each), "number") for each in headings)]),
    ]


def _query_step(heading: Heading) -> str:
    return heading.line.removeprefix(f"{heading.attack}, ")


def _share(share: Estimate | None, remark: str = "") -> str:
    if share is None or not share.total:
        return _cell("-", "number")
    bounds = f"{100 * share.low:.1f} to {100 * share.high:.1f}"
    return f'<td class="number"><b>{percent(share)}</b><small>{bounds}</small><small>{escape(remark)}</small></td>'


def _pairs(report: Report) -> str:
    kinds = ["" if name in ("A", "B") else "number" for name in PAIR_HEAD]
    lines = ['<table class="pairs">', "<thead>", _row(map(_head, PAIR_HEAD, kinds)), "</thead>", "<tbody>"]
    for heading, pairs in report.grouped().items():
        lines.append(_row([_head(heading, "group", span=len(PAIR_HEAD))], "group"))
        lines += [_row(map(_cell, report.pair_cells(pair), kinds)) for pair in pairs]
    return "\n".join([*lines, "</tbody>", "</table>"])


def _details(report: Report) -> str:
    head = _row(["<th></th>", *(_head(run.label) for run in report.runs)])
    lines = ['<table class="details">', "<thead>", head, "</thead>", "<tbody>"]
    for label, cells in report.details:
        name = _head(label.strip(), "indented" if label.startswith(" ") else "")
        lines.append(_row([name, *map(_cell, cells)], "headline" if label == "mean logits: robust" else ""))
    return "\n".join([*lines, "</tbody>", "</table>"])


def _galleries(runs: list[Run], galleries: list[list[Example]]) -> Iterable[str]:
    if not any(galleries):
        return
    yield "<h2>Attacked images</h2>"
    yield _reading(
        f"The first images that each run kept, at most {MOST}, whatever became of them: clean, at the point that was "
        "judged, and their difference, magnified around grey. A prediction is the class with the largest mean logit."
    )
    for run, shown in zip(runs, galleries, strict=True):
        if shown:
            yield f"<h3>{escape(f'{run.label}: {attack_name(run.facts)}, {defense_text(method_of(run))}')}</h3>"
            note = channels_note(shown[0].channels)
            if note:
                yield _reading(note)
            yield '<div class="gallery">'
            yield from (_example(example, run.facts.classes) for example in shown)
            yield "</div>"


def _example(example: Example, classes: list[str] | None) -> str:
    record = example.record
    factor = "unchanged" if example.factor is None else f"difference, times {number(example.factor, 3)}"
    pictures = ((example.clean, "clean"), (example.adversarial, "attacked"), (example.difference, factor))
    cells = "".join(f"<div>{_picture(png, name)}<span>{escape(name)}</span></div>" for png, name in pictures)
    told = (
        f"{_classes(record, classes)}; {record.billed:,} queries; "
        f"linf {number(record.linf, 3)}, l2 {number(record.l2, 3)}"
    )
    verdict = record.verdict if record.clean_correct else "misclassified before the attack"
    return (
        f'<figure class="example"><div class="triple">{cells}</div>'
        f'<figcaption><span class="verdict">{escape(str(verdict))}</span>; {escape(told)}<br>'
        f"{escape(str(record.id))}</figcaption></figure>"
    )


def _classes(record: Record, classes: list[str] | None) -> str:
    """Return the label of an image, its target, and its predictions before and after the attack, as text."""

    def name(index: int) -> str:
        return f"{index} {classes[index]}" if classes and index < len(classes) else str(index)

    said = {"label": record.label, "target": record.target}
    said["predicted"], after = record.clean_prediction, record.final_prediction
    text = ", ".join(f"{what} {name(index)}" for what, index in said.items() if index is not None)
    return text if after is None else f"{text}, after the attack {name(after)}"


def _audit(run: Run) -> str:
    """Return what each check of a run found, below a line with how many passed."""
    rows = (
        _row([_cell(finding.check), _cell(finding.state, finding.state), _cell(finding.found)])
        for finding in run.diagnostics
    )
    summary = escape(f"{run.label}: {audit_line(run.diagnostics)}")
    table = f"<table>{''.join(rows)}</table>"
    return f"<details><summary>{summary}</summary>{_scrolling(table)}</details>"


def _configuration(run: Run) -> str:
    return f"<details><summary>{escape(run.label)}: config.yaml</summary><pre>{escape(run.config)}</pre></details>"

"""Plots of robust accuracy against queries, and figures as PNG and PDF files without the state of pyplot."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rfdlight._io import write_file
from rfdlight.core.statistics import wilson
from rfdlight.records.records import Record
from rfdlight.records.summary import Outcome, outcomes

Curve = tuple[str, Sequence[Record], int]
"""Label, records and budget of a run."""

Kind = Literal["png", "pdf", "svg"]
KINDS: tuple[Kind, ...] = ("png", "pdf")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito for every colour vision, without its yellow."""

STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "svg.hashsalt": "rfdlight",
    "pdf.fonttype": 42,  # many conferences refuse Type 3 fonts, the default
}
"""Style of all figures: sizes in points at the figure's own size, so that half of a page's width is readable."""

styled = matplotlib.rc_context(STYLE)
"""Decorator of functions that draw a new figure."""

LONG = 1000
"""Queries from which on a logarithmic axis is easier to read."""

_SCREEN = " first 9-vote success"
_YLABEL = "robust accuracy (95% band)"


def begin(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def encoded(figure: Figure, kind: Kind) -> bytes:
    """Return a figure as a file without a date, so that the same figure gives the same file."""
    file = io.BytesIO()
    undated = {"png": None, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, dpi=200, format=kind, metadata=undated[kind])
    return file.getvalue()


def save(figure: Figure, path: Path, kinds: Sequence[Kind] = KINDS) -> None:
    """Write a figure to files beside each other; `path` is that of the PNG."""
    for kind in kinds:
        write_file(path.with_suffix(f".{kind}"), encoded(figure, kind))


@styled
def draw_curves(runs: list[Curve], title: str = "") -> Figure:
    """Return a new figure with the robust accuracy of runs against the queries billed; see `draw_on`."""
    figure = begin(5.6, 4.0)
    return _with_legend(figure, draw_on(figure.add_subplot(), runs, title))


@styled
def draw_panels(panels: list[tuple[str, list[Curve]]]) -> Figure:
    """Return a new figure with a panel per title; runs with one label have one colour in all panels."""
    labels = list(dict.fromkeys(label for _, runs in panels for label, _, _ in runs))
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = begin(3.1 * columns, 2.7 * rows + 0.25 * len(labels) + 0.3)
    handles: dict[str, Line2D] = {}
    for number, (title, runs) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        lines = draw_on(axes, runs, title, [labels.index(label) for label, _, _ in runs])
        axes.set_ylabel("")
        axes.set_title(_wrapped(title, 32))
        handles |= {str(line.get_label()): line for line in lines}
    figure.supylabel(_YLABEL, fontsize=11)
    return _with_legend(figure, sorted(handles.values(), key=lambda line: line.get_label() == _SCREEN))


def draw_on(axes: Axes, runs: list[Curve], title: str = "", colours: Sequence[int] | None = None) -> list[Line2D]:
    """Draw the robust accuracy of runs against the queries billed into axes; return the handles of a legend.

    Solid steps are the robust accuracy (Definition 1) in a band of 95 % Wilson intervals, with a dot at the budget.
    Thin dashes are the robust accuracy by the first 9-vote success, if there is one. From `LONG` queries on, the axis
    of the queries is logarithmic. `colours` holds the number of the colour of each run, by default the next ones that
    the axes do not have; a run without records is left out.
    """
    drawn = len(axes.collections)  # a band for each run
    most = max([budget for _, _, budget in runs], default=1)
    start = 1 if most >= LONG else 0
    handles = [
        _draw(axes, label, records, (start, budget), i)
        for (label, records, budget), i in zip(runs, colours or range(drawn, drawn + len(runs)), strict=True)
        if records
    ]
    if start:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    # A little room past the last query and beyond 0 and 100 % keeps the ends of curves visible.
    axes.set_xlim(start, most**1.02 if start else max(most, 1) * 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set(xlabel="queries billed per image", ylabel=_YLABEL)
    axes.set_title(_wrapped(title, 55), fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if any(_voted(records) for _, records, _ in runs):
        handles.append(Line2D([], [], color="0.4", linewidth=1, linestyle="--", label=_SCREEN))
    return handles


def steps(
    records: Sequence[Record], found: Sequence[Sequence[Outcome]], start: int, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a step curve of the number of images that are initially correct and robust by their last outcome.

    `found` holds the outcomes of each image, in order of their queries. Returns queries from `start` to `stop` and
    numbers of robust images, (points,) int64 both; a number holds up to the next query.
    """
    right = [record.clean_correct for record in records]
    changes = [change for each, ok in zip(found, right, strict=True) if ok for change in _changes(each)]
    fallen, risen = (np.sort([query for query, falls in changes if falls == kind]) for kind in (True, False))
    queries = np.unique(np.concatenate([[start, stop], fallen, risen])).astype(np.int64)
    queries = queries[(queries >= start) & (queries <= stop)]
    robust = [np.searchsorted(each, queries, side="right") for each in (risen, fallen)]
    return queries, sum(right) + robust[0] - robust[1]


def _changes(found: Sequence[Outcome]) -> Iterator[tuple[int, bool]]:
    """Yield the queries at which an image becomes adversarial, True, or robust again, False."""
    before = False
    for outcome in found:
        if outcome.adversarial != before:
            yield outcome.queries, outcome.adversarial
        before = outcome.adversarial


def _with_legend(figure: Figure, handles: list[Line2D]) -> Figure:
    figure.legend(handles=handles, loc="outside lower center")
    return figure


def _draw(axes: Axes, label: str, records: Sequence[Record], span: tuple[int, int], number: int) -> Line2D:
    colour, style = COLOURS[number % len(COLOURS)], "-" if number < len(COLOURS) else "-."
    total = len(records)
    queries, standing = steps(records, [outcomes(record) for record in records], *span)
    bounds = np.array([wilson(int(count), total) for count in standing])
    axes.fill_between(queries, bounds[:, 0], bounds[:, 1], step="post", color=colour, alpha=0.15, linewidth=0)
    name = " " + label.replace("$", r"\$")  # a legend leaves out a label that begins with "_"
    (line,) = axes.step(queries, standing / total, where="post", color=colour, linewidth=2, linestyle=style, label=name)
    # A dot marks the end; the dots of earlier curves are larger, so that no dot hides another.
    line.set(marker="o", markersize=max(3, 9 - 1.5 * number), markevery=[len(queries) - 1], clip_on=False)
    if _voted(records):
        votes = [record.first_9_vote_success for record in records]
        found = [[] if query is None else [Outcome(query, True)] for query in votes]
        screened, passed = steps(records, found, *span)
        axes.step(screened, passed / total, where="post", color=colour, linewidth=1, linestyle="--")
    return line


def _voted(records: Sequence[Record]) -> bool:
    return any(record.first_9_vote_success is not None for record in records)


def _wrapped(text: str, width: int) -> str:
    """Return text in lines; without the backslash, matplotlib shows text between dollars as a formula."""
    return textwrap.fill(text, width).replace("$", r"\$")

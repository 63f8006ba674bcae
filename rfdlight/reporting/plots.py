"""Robust accuracy against queries, as a picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from rfdlight.core.statistics import wilson
from rfdlight.records.records import Record
from rfdlight.records.summary import success_query_of, was_screened
from rfdlight.reporting.figures import begin

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which readers of every colour vision can tell apart, without its yellow."""


LONG = 1000
"""Queries from which on an axis is better logarithmic."""

SCREEN = " first 9-vote screen"
"""What a legend calls the dashes."""

END = " end of a run"
"""What a legend calls the dots."""

_TITLE_WIDTH = 80
"""Characters of a line of a picture's title."""


def draw_curves(runs: Sequence[tuple[str, Sequence[Record], int]], log: bool = False, title: str = "") -> Figure:
    """Draw the robust accuracy of runs against the queries billed.

    A run's solid steps are the robust accuracy of its mean logits, in a band of 95 % Wilson intervals;
    thin dashes show the first candidate that a majority of 9 votes called wrong. A dot beside its last query
    marks where it ends.

    Args:
        runs: Label, records and budget of each; a run without records is left out.
        log: Whether the axis of the queries is logarithmic; it then starts at 1.
        title: Stands above the picture.
    """
    figure = begin(7.5, 4.6)
    axes = figure.add_subplot()
    handles = _draw_all(axes, [(label, records, budget, i) for i, (label, records, budget) in enumerate(runs)], log)
    axes.set_ylabel("robust accuracy (95% band)")
    axes.set_title(_wrapped(title, _TITLE_WIDTH), fontsize=10)
    return _finish(figure, handles)


def draw_panels(panels: Sequence[tuple[str, Sequence[tuple[str, Sequence[Record], int]]]]) -> Figure:
    """Draw runs as `draw_curves` does, side by side, and those with one label in one colour.

    Args:
        panels: A title, and label, records and budget of each run below it.
    """
    labels = list(dict.fromkeys(label for _, runs in panels for label, _, _ in runs))
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = begin(3.6 * columns, 2.9 * rows + 0.25 * len(labels) + 0.3)
    handles: dict[str, Line2D] = {}
    for place, (title, runs) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place)
        log = max(budget for _, _, budget in runs) >= LONG
        lines = _draw_all(axes, [(*run, labels.index(run[0])) for run in runs], log)
        handles |= {str(line.get_label()): line for line in lines}
        axes.set_title(_wrapped(title, 40), fontsize=10)
    figure.supylabel("robust accuracy (95% band)", fontsize=10)
    return _finish(figure, sorted(handles.values(), key=lambda line: line.get_label() in (SCREEN, END)))


def _draw_all(axes: Axes, runs: Sequence[tuple[str, Sequence[Record], int, int]], log: bool) -> list[Line2D]:
    """Draw the curves of runs, each given with the number of its colour; return what a legend shows."""
    start = 1 if log else 0
    handles: list[Line2D] = []
    for label, records, budget, i in runs:
        if records:
            style = "-" if i < len(COLOURS) else "-."
            line = _draw(axes, label, records, budget, start, COLOURS[i % len(COLOURS)], style)
            _mark_end(axes, line, len(handles))
            handles.append(line)
    most = max([budget for _, _, budget, _ in runs] + [start + 1])
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    # A little room past the last query and beyond 0 and 100 % shows what ends there.
    axes.set_xlim(start, most**1.02 if log else most * 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("queries billed per image")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if any(was_screened(records) for _, records, _, _ in runs):
        handles.append(Line2D([], [], color="0.4", linewidth=1, linestyle="--", label=SCREEN))
    handles.append(Line2D([], [], color="0.4", linestyle="", marker="o", markersize=4, label=END))
    return handles


def _wrapped(title: str, width: int) -> str:
    """Return a title in lines; without the backslash, text between two dollars would be set as a formula."""
    return textwrap.fill(title, width).replace("$", r"\$")


def _finish(figure: Figure, handles: list[Line2D]) -> Figure:
    """Put the legend below the axes, where long labels cover no curve."""
    figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize=9)
    return figure


def steps(records: Sequence[Record], ends: list[int | None], start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a step curve of the share of images that are initially right and still stand.

    Args:
        records: All images of the run, at least one.
        ends: Per record the query at which it fell, None if it did not.
        start: First query of the curve.
        stop: Last query of the curve.

    Returns:
        Queries and numbers of standing images, (points,) int64 both; a number holds up to the next query.
    """
    right = [record.clean_correct for record in records]
    fallen = np.sort([end for end, ok in zip(ends, right, strict=True) if ok and end is not None])
    queries = np.unique(np.concatenate([[start, stop], fallen])).astype(np.int64)
    queries = queries[(queries >= start) & (queries <= stop)]
    return queries, sum(right) - np.searchsorted(fallen, queries, side="right")


def _mark_end(axes: Axes, line: Line2D, number: int) -> None:
    """Put a dot beside a curve's end, the further to the right the more there are: the last falls hide each other."""
    beside = axes.transData + ScaledTranslation((5 + 5 * number) / 72, 0, axes.figure.dpi_scale_trans)
    end = [np.asarray(values)[-1:] for values in line.get_data()]
    axes.plot(*end, "o", color=line.get_color(), markersize=4, markeredgewidth=0, clip_on=False, transform=beside)


def _draw(
    axes: Axes, label: str, records: Sequence[Record], budget: int, start: int, colour: str, style: str
) -> Line2D:
    total = len(records)
    queries, standing = steps(records, [success_query_of(record) for record in records], start, budget)
    bounds = np.array([wilson(int(count), total) for count in standing])
    axes.fill_between(queries, bounds[:, 0], bounds[:, 1], step="post", color=colour, alpha=0.15, linewidth=0)
    # A legend would set what stands between dollars as a formula, and leave out what begins with "_".
    name = " " + label.replace("$", r"\$")
    (line,) = axes.step(queries, standing / total, where="post", color=colour, linewidth=2, linestyle=style, label=name)
    if not was_screened(records):
        return line
    screened, passed = steps(records, [record.first_9_vote_success for record in records], start, budget)
    axes.step(screened, passed / total, where="post", color=colour, linewidth=1, linestyle="--")
    return line

"""Plots of robust accuracy against queries."""

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

Curve = tuple[str, Sequence[Record], int]
"""Label, records and budget of a run."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito for every colour vision, without its yellow."""

LONG = 1000
"""Queries from which on a logarithmic axis is easier to read."""

SCREEN = " first 9-vote success"
END = " end of a run"
"""Labels of the dashes and the dots in a legend."""

_YLABEL = "robust accuracy (95% band)"


def draw_curves(runs: list[Curve], title: str = "") -> Figure:
    """Return a new figure with the robust accuracy of runs against the queries billed; see `draw_on`."""
    figure = begin(7.5, 4.6)
    return _with_legend(figure, draw_on(figure.add_subplot(), runs, title))


def draw_panels(panels: list[tuple[str, list[Curve]]]) -> Figure:
    """Return a new figure with a panel per title; runs with one label have one colour in all panels."""
    labels = list(dict.fromkeys(label for _, runs in panels for label, _, _ in runs))
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = begin(3.6 * columns, 2.9 * rows + 0.25 * len(labels) + 0.3)
    handles: dict[str, Line2D] = {}
    for place, (title, runs) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place)
        lines = draw_on(axes, runs, title, [labels.index(label) for label, _, _ in runs])
        axes.set_ylabel("")
        axes.set_title(_wrapped(title, 40), fontsize=10)
        handles |= {str(line.get_label()): line for line in lines}
    figure.supylabel(_YLABEL, fontsize=10)
    return _with_legend(figure, sorted(handles.values(), key=lambda line: line.get_label() in (SCREEN, END)))


def draw_on(axes: Axes, runs: list[Curve], title: str = "", colours: Sequence[int] | None = None) -> list[Line2D]:
    """Draw the robust accuracy of runs against the queries billed into axes.

    Solid steps are the robust accuracy (Definition 1) in a band of 95 % Wilson intervals. Thin dashes are the robust
    accuracy by the first 9-vote success. A dot beside the last query marks the end of a run. From `LONG` queries on,
    the axis of the queries is logarithmic.

    Args:
        axes: Of any figure.
        runs: Label, records and budget of each; a run without records is left out.
        title: Of the axes.
        colours: The number of the colour of each run; by default 0, 1, 2, ...

    Returns:
        The handles of a legend.
    """
    most = max([budget for _, _, budget in runs], default=1)
    start = 1 if most >= LONG else 0
    handles: list[Line2D] = []
    for (label, records, budget), i in zip(runs, colours or range(len(runs)), strict=True):
        if records:
            style = "-" if i < len(COLOURS) else "-."
            line = _draw(axes, label, records, (start, budget), COLOURS[i % len(COLOURS)], style)
            # The later a curve, the further right is its dot, so that no dot hides another.
            beside = axes.transData + ScaledTranslation((5 + 5 * len(handles)) / 72, 0, axes.figure.dpi_scale_trans)
            end = [np.asarray(values)[-1:] for values in line.get_data()]
            colour = line.get_color()
            axes.plot(*end, "o", color=colour, markersize=4, markeredgewidth=0, clip_on=False, transform=beside)
            handles.append(line)
    if start:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    # A little room past the last query and beyond 0 and 100 % keeps the ends of curves visible.
    axes.set_xlim(start, most**1.02 if start else max(most, 1) * 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set(xlabel="queries billed per image", ylabel=_YLABEL)
    axes.set_title(_wrapped(title, 80), fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if any(was_screened(records) for _, records, _ in runs):
        handles.append(Line2D([], [], color="0.4", linewidth=1, linestyle="--", label=SCREEN))
    return [*handles, Line2D([], [], color="0.4", linestyle="", marker="o", markersize=4, label=END)]


def steps(records: Sequence[Record], ends: list[int | None], start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a step curve of the number of images that are initially correct and still robust.

    Args:
        records: All images of the run, at least one.
        ends: Per record the query of its success, None for none.
        start: First query of the curve.
        stop: Last query of the curve.

    Returns:
        Queries and numbers of robust images, (points,) int64 both; a number holds up to the next query.
    """
    right = [record.clean_correct for record in records]
    fallen = np.sort([end for end, ok in zip(ends, right, strict=True) if ok and end is not None])
    queries = np.unique(np.concatenate([[start, stop], fallen])).astype(np.int64)
    queries = queries[(queries >= start) & (queries <= stop)]
    return queries, sum(right) - np.searchsorted(fallen, queries, side="right")


def _with_legend(figure: Figure, handles: list[Line2D]) -> Figure:
    figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, label: str, records: Sequence[Record], span: tuple[int, int], colour: str, style: str) -> Line2D:
    total = len(records)
    queries, standing = steps(records, [success_query_of(record) for record in records], *span)
    bounds = np.array([wilson(int(count), total) for count in standing])
    axes.fill_between(queries, bounds[:, 0], bounds[:, 1], step="post", color=colour, alpha=0.15, linewidth=0)
    name = " " + label.replace("$", r"\$")  # a legend leaves out a label that begins with "_"
    (line,) = axes.step(queries, standing / total, where="post", color=colour, linewidth=2, linestyle=style, label=name)
    if was_screened(records):
        screened, passed = steps(records, [record.first_9_vote_success for record in records], *span)
        axes.step(screened, passed / total, where="post", color=colour, linewidth=1, linestyle="--")
    return line


def _wrapped(text: str, width: int) -> str:
    """Return text in lines; without the backslash, matplotlib shows text between dollars as a formula."""
    return textwrap.fill(text, width).replace("$", r"\$")

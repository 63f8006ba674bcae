"""Figures of an analysis: figures 1 and 2 of the paper, and theorem 1 against measurement, as PNG and PDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from rfdlight.analysis.measurements import Measurement
from rfdlight.core.statistics import mean_interval
from rfdlight.reporting.plots import COLOURS, KINDS, Kind, begin, save, styled


@styled
def draw_ratios(points: list[Measurement], path: Path, kinds: Sequence[Kind] = KINDS) -> None:
    """Draw box plots of gradient norm ratios, layer over image, before and after one step of an attacker."""
    layers = points[1:]
    figure, axes = _begin(len(layers))
    _boxes(axes, [point.ratios for point in layers], -0.2, 0.35, COLOURS[0])
    _boxes(axes, [point.ratios_after for point in layers], 0.2, 0.35, COLOURS[1])
    axes.set_ylabel("gradient norm,\nlayer over image")
    _label(axes, figure, layers)
    patches = [Patch(facecolor=COLOURS[0], label="clean"), Patch(facecolor=COLOURS[1], label="after one step")]
    figure.legend(handles=patches, loc="outside lower center", ncols=2)
    save(figure, path, kinds)


@styled
def draw_magnitudes(points: list[Measurement], path: Path, kinds: Sequence[Kind] = KINDS) -> None:
    """Draw box plots of the magnitude of robustness at the image and at every layer."""
    figure, axes = _begin(len(points))
    _boxes(axes, [point.magnitudes for point in points], 0, 0.6, COLOURS[2])
    axes.set_ylabel("magnitude of robustness")
    _label(axes, figure, points)
    save(figure, path, kinds)


@styled
def draw_misled(points: list[Measurement], path: Path, kinds: Sequence[Kind] = KINDS) -> None:
    """Draw the predicted and the measured frequency of misleading at equal cost, with 95 % intervals over images."""
    shown = [point for point in points if point.sigma is not None]
    figure, axes = _begin(len(shown))
    _intervals(axes, [point.predicted for point in shown], -0.12, "s", COLOURS[0], "predicted by theorem 1")
    _intervals(axes, [point.measured for point in shown], 0.12, "o", COLOURS[1], "measured")
    axes.set_ylim(0, max(0.52, axes.get_ylim()[1]))
    axes.axhline(0.5, color="0.4", linewidth=1, linestyle="--")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("comparisons that mislead\n(95 % intervals)")
    _label(axes, figure, shown)
    figure.legend(loc="outside lower center", ncols=2)
    save(figure, path, kinds)


def _intervals(axes: Axes, columns: list[Tensor], offset: float, marker: str, colour: str, label: str) -> None:
    means = np.array([float(column.mean()) for column in columns])
    ends = np.array([mean_interval(column.numpy()) for column in columns]).reshape(-1, 2).T
    at = np.arange(len(columns)) + offset
    axes.errorbar(at, means, np.abs(ends - means), fmt=marker, color=colour, capsize=3, label=label)


def _begin(count: int) -> tuple[Figure, Axes]:
    figure = begin(max(4.8, 1.5 + 0.5 * count), 3.6)
    axes = figure.add_subplot()
    axes.grid(axis="y", alpha=0.25)
    return figure, axes


def _boxes(axes: Axes, columns: list[Tensor], offset: float, width: float, colour: str) -> None:
    """Draw the median, quartiles and 5 to 95 % of the positive values of each column on a logarithmic axis."""
    values = [column.numpy() for column in columns]
    axes.boxplot(
        [column[np.isfinite(column) & (column > 0)] for column in values],
        positions=np.arange(len(columns)) + offset,
        widths=width,
        whis=(5, 95),
        showfliers=False,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": colour, "alpha": 0.8},
        medianprops={"color": "black"},
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # few of these axes span more than one decade
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _label(axes: Axes, figure: Figure, points: list[Measurement]) -> None:
    """Label the insertion points, at an angle if the labels would overlap."""
    axes.set_xticks(range(len(points)), [point.name for point in points])
    axes.set_xlim(-0.6, len(points) - 0.4)
    figure.draw_without_rendering()
    room = 0.95 * axes.bbox.width / max(1, len(points))
    if any(label.get_window_extent().width > room for label in axes.get_xticklabels()):
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")

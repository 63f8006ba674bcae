"""The pictures of an analysis: figures 1 and 2 of the paper for any victim, and theorem 1 against measurement.

Each is written as a PNG, whose path is given, and as a PDF beside it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from rfdlight.analysis.analysis import Point
from rfdlight.core.intervals import mean_interval
from rfdlight.reporting.figures import begin, save
from rfdlight.reporting.plots import COLOURS

_SHARE_OF_NAMES = 0.95
"""Of the width for each place, that its name may take."""


def draw_ratios(points: list[Point], path: Path) -> None:
    """Draw the ratios of gradient norms, layer over image, before and after one step of an attacker.

    Boxes hold the middle half of the images, whiskers 5 to 95 %, the line is the median.
    """
    layers = points[1:]
    figure, axes = _begin(len(layers))
    for offset, colour, values in (
        (-0.2, COLOURS[0], [point.ratios for point in layers]),
        (0.2, COLOURS[1], [point.ratios_after for point in layers]),
    ):
        _boxes(axes, [_positive(column.numpy()) for column in values], offset, 0.35, colour)
    _logarithmic(axes)
    axes.set_ylabel("gradient norm, layer over image")
    _layers(axes, figure, layers)
    patches = [Patch(facecolor=COLOURS[0], label="clean"), Patch(facecolor=COLOURS[1], label="after one step")]
    figure.legend(handles=patches, loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def draw_magnitudes(points: list[Point], path: Path) -> None:
    """Draw the magnitude of robustness at the image and at every layer; boxes and whiskers as for the ratios."""
    figure, axes = _begin(len(points))
    _boxes(axes, [_positive(point.magnitudes.numpy()) for point in points], 0, 0.6, COLOURS[2])
    _logarithmic(axes)
    axes.set_ylabel("1 % quantile of margin over gradient\nnorm, times gradient norm")
    _layers(axes, figure, points)
    save(figure, path)


def draw_misled(points: list[Point], path: Path) -> None:
    """Draw how often an attacker is misled at equal cost: predicted, and measured with 95 % intervals over images."""
    shown = [point for point in points if point.sigma is not None]
    figure, axes = _begin(len(shown))
    highest = 0.5
    for offset, colour, marker, label, columns in (
        (-0.12, COLOURS[0], "s", "predicted by theorem 1", [point.predicted for point in shown]),
        (0.12, COLOURS[1], "o", "measured", [point.measured for point in shown]),
    ):
        means = np.array([float(column.mean()) for column in columns])
        ends = np.array([mean_interval(column.numpy()) for column in columns]).reshape(-1, 2).T
        errors = np.abs(ends - means)
        places = np.arange(len(shown)) + offset
        axes.errorbar(places, means, errors, fmt=marker, color=colour, capsize=3, label=label)
        highest = max([highest, *ends.flat])
    axes.set_ylim(0, highest + 0.02)
    axes.axhline(0.5, color="0.4", linewidth=1, linestyle="--")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("comparisons that mislead (95 % intervals)")
    _layers(axes, figure, shown)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def _begin(count: int) -> tuple[Figure, Axes]:
    figure = begin(max(5.0, 1.5 + 0.55 * count), 4.2)
    axes = figure.add_subplot()
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _boxes(axes: Axes, columns: list[np.ndarray], offset: float, width: float, colour: str) -> None:
    axes.boxplot(
        columns,
        positions=[place + offset for place in range(len(columns))],
        widths=width,
        whis=(5, 95),
        showfliers=False,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": colour, "alpha": 0.8},
        medianprops={"color": "black"},
    )


def _logarithmic(axes: Axes) -> None:
    """Mark 1, 2 and 5 of every decade, in plain numbers: few of these axes span more than one."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _positive(values: np.ndarray) -> np.ndarray:
    """Leave out what a logarithmic axis cannot show: layers that an image's margin does not depend on."""
    return values[np.isfinite(values) & (values > 0)]


def _layers(axes: Axes, figure: Figure, points: list[Point]) -> None:
    """Name the places below the axis, from bottom to top where names would run into each other."""
    axes.set_xticks(range(len(points)), [point.name for point in points])
    axes.set_xlim(-0.6, len(points) - 0.4)
    figure.draw_without_rendering()
    room = _SHARE_OF_NAMES * axes.bbox.width / max(1, len(points))
    if any(label.get_window_extent().width > room for label in axes.get_xticklabels()):
        axes.tick_params(axis="x", labelrotation=90)

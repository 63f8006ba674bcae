"""What the pictures of an analysis show, read from the figures that are written."""

import math
import statistics
from itertools import pairwise

import numpy as np
import pytest
import torch
from harness import others_slow
from matplotlib.colors import to_hex

from rfdlight.analysis import plots as analysis_plots
from rfdlight.analysis.measurements import Measurement
from rfdlight.analysis.plots import draw_magnitudes, draw_misled, draw_ratios

IMAGES = 41
"""So many that the percentiles of boxes and whiskers fall on images: the 3rd, 11th, 21st, 31st and 39th."""

T = 2.0210753903062737
"""The 97.5 % quantile of Student's distribution with 40 degrees of freedom."""


def spread(scale, power):
    """Skewed values of the images, out of order, so that a mean is no median and an image no percentile."""
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(1))
    return scale * (1 + order.double()) ** power


def point(name, scale, sigma=1.0, **changes):
    values = {
        "margins": spread(7 * scale, 1),
        "norms": spread(3 * scale, 1.5),
        "ratios": spread(scale, 2),
        "ratios_after": spread(2 * scale, 1.2),
        "quantile": 0.25 * scale,
        "predicted": spread(0.01 * scale, 0.8),
        "measured": spread(0.012 * scale, 1),
    }
    return Measurement(name, "output", sigma=sigma, drop=None if sigma is None else 0.02, **values | changes)


def nothing(name):
    """A place that no margin depends on."""
    zeros, empty = torch.zeros(IMAGES).double(), torch.empty(0).double()
    changes = {"norms": zeros, "ratios": zeros, "ratios_after": zeros, "predicted": empty, "measured": empty}
    return point(name, 1, None, quantile=None, **changes)


@pytest.fixture
def points():
    return [point("the image", 0.5), point("layer1", 1), nothing("unused"), point("layer2", 1.5)]


@pytest.fixture
def figure(monkeypatch, points, tmp_path):
    """Draw a picture of the points, or of others; return its figure."""

    def drawn(draw, others=None):
        saved = []
        monkeypatch.setattr(analysis_plots, "save", lambda figure, path, kinds: saved.append((figure, path)))
        draw(points if others is None else others, tmp_path / "picture.png")
        ((found, path),) = saved
        assert path == tmp_path / "picture.png"
        found.draw_without_rendering()
        return found

    return drawn


def boxes(axes):
    """Return of each box its colour, its middle, and its whisker, quartile, median, quartile and whisker."""
    found = []
    for patch in axes.patches:
        (left, low), (right, high) = patch.get_path().get_extents().get_points()
        own = [line.get_xydata() for line in axes.lines if left - 1e-9 <= line.get_xdata().min() < right + 1e-9]
        (median,) = {line[0, 1] for line in own if np.allclose(line[:, 0], [left, right])}
        ends = [y for line in own if np.ptp(line[:, 0]) == 0 for y in line[:, 1]]
        found.append((to_hex(patch.get_facecolor()), (left + right) / 2, [min(ends), low, median, high, max(ends)]))
    return found


def five(values):
    """Return what a box of values has to show."""
    ordered = sorted(values.tolist())
    return pytest.approx([ordered[i] for i in (2, 10, 20, 30, 38)])


def names(axes):
    return [(label.get_position()[0], label.get_text()) for label in axes.get_xticklabels()]


def legend(figure):
    """Return what each colour stands for."""
    (box,) = figure.legends
    handles, texts = box.legend_handles, [text.get_text() for text in box.get_texts()]
    return dict(zip(texts, handles, strict=True))


def test_boxes_of_the_ratios_hold_the_images_before_and_after_the_step(figure, points):
    drawn = figure(draw_ratios)
    (axes,) = drawn.axes
    assert names(axes) == [(0, "layer1"), (1, "unused"), (2, "layer2")]
    colours = {name: to_hex(patch.get_facecolor()) for name, patch in legend(drawn).items()}
    assert list(colours) == ["clean", "after one step"]
    for name, field, offset in (("clean", "ratios", -0.2), ("after one step", "ratios_after", 0.2)):
        shown = [(middle, values) for colour, middle, values in boxes(axes) if colour == colours[name]]
        assert [middle for middle, _ in shown] == pytest.approx([0 + offset, 1 + offset, 2 + offset])
        for (_, values), layer in ((shown[0], points[1]), (shown[2], points[3])):
            assert values == five(getattr(layer, field))
        assert all(map(math.isnan, shown[1][1]))
    assert axes.get_ylabel() == "gradient norm,\nlayer over image"


def test_boxes_of_the_magnitudes_hold_the_image_and_every_layer(figure, points):
    (axes,) = figure(draw_magnitudes).axes
    assert names(axes) == [(0, "the image"), (1, "layer1"), (2, "unused"), (3, "layer2")]
    shown = boxes(axes)
    assert [middle for _, middle, _ in shown] == pytest.approx([0, 1, 2, 3])
    for i in (0, 1, 3):
        assert shown[i][2] == five(points[i].quantile * points[i].norms)
    assert all(map(math.isnan, shown[2][2]))
    assert axes.get_ylabel() == "magnitude of robustness"


def test_what_a_logarithmic_axis_cannot_show_is_left_out_of_a_box(figure):
    kept = spread(1, 2)
    lost = torch.tensor([0.0, math.inf, math.nan]).double()
    (axes,) = figure(draw_ratios, [point("the image", 1), point("a", 1, ratios=torch.cat([kept, lost]))]).axes
    assert boxes(axes)[0][2] == five(kept)


@pytest.mark.parametrize("draw", [draw_ratios, draw_magnitudes])
def test_the_axis_is_logarithmic_and_marked_in_plain_numbers(figure, draw):
    (axes,) = figure(draw).axes
    assert axes.get_yscale() == "log"
    texts = [label.get_text() for label in axes.get_yticklabels()]
    assert {"1", "2", "5", "10", "20"} <= set(texts)
    assert all(float(text) == pytest.approx(at) for text, at in zip(texts, axes.get_yticks(), strict=True))


def test_means_and_intervals_of_the_misled_are_those_of_the_images(figure, points):
    drawn = figure(draw_misled)
    (axes,) = drawn.axes
    assert names(axes) == [(0, "the image"), (1, "layer1"), (2, "layer2")]
    shown = [points[0], points[1], points[3]]
    series = {container.get_label(): container for container in axes.containers}
    assert list(series) == list(legend(drawn)) == ["predicted by theorem 1", "measured"]
    looks = set()
    for label, field, offset in (("predicted by theorem 1", "predicted", -0.12), ("measured", "measured", 0.12)):
        line, _, (bars,) = series[label].lines
        columns = [getattr(each, field).tolist() for each in shown]
        assert line.get_xdata() == pytest.approx([0 + offset, 1 + offset, 2 + offset])
        assert line.get_ydata() == pytest.approx([statistics.fmean(column) for column in columns])
        for (low, high), place, column in zip(bars.get_segments(), line.get_xdata(), columns, strict=True):
            mean, half = statistics.fmean(column), T * statistics.stdev(column) / math.sqrt(IMAGES)
            assert (*low, *high) == pytest.approx((place, mean - half, place, mean + half))
        assert to_hex(legend(drawn)[label].get_color()[0]) == to_hex(bars.get_color()[0]) == to_hex(line.get_color())
        looks.add((line.get_color(), line.get_marker()))
    # Black and white print has the markers alone.
    assert [len(set(each)) for each in zip(*looks, strict=True)] == [2, 2]


def test_the_axis_of_the_misled_ends_at_a_coins_half(figure):
    (axes,) = figure(draw_misled).axes
    (half,) = [line for line in axes.lines if len(set(line.get_ydata())) == 1 and line.get_linestyle() == "--"]
    assert half.get_ydata()[0] == 0.5
    assert axes.get_ylim() == (0, 0.52)
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["0%", "10%"]
    assert "95 % intervals" in axes.get_ylabel()


def test_an_interval_beyond_a_half_is_not_cut_off(figure):
    far = point("layer1", 1, measured=spread(0.03, 1))
    (axes,) = figure(draw_misled, [far]).axes
    assert far.measured_interval[1] > 0.6
    assert axes.get_ylim()[1] > far.measured_interval[1]


def test_without_a_place_that_misleads_the_picture_is_empty(figure):
    (axes,) = figure(draw_misled, [nothing("the image"), nothing("layer1")]).axes
    assert names(axes) == []


@pytest.mark.parametrize(
    "names", others_slow([["layer1", "layer2"], ["features.3", "features.10", "features.23", "features.49"] * 2], 1)
)
@pytest.mark.parametrize("draw", [draw_magnitudes, draw_misled])
def test_names_of_points_do_not_run_into_each_other(figure, draw, names):
    (axes,) = figure(draw, [point(name, 1) for name in ["the image", *names]]).axes
    labels = axes.get_xticklabels()
    ends = [label.get_window_extent() for label in labels]
    if labels[0].get_rotation():  # parallel lines at 45 degrees, as far apart as their height or farther
        height = labels[0].get_fontsize() * axes.figure.dpi / 72
        assert all((right.x1 - left.x1) / 2**0.5 > height for left, right in pairwise(ends))
    else:
        assert all(left.x1 < right.x0 for left, right in pairwise(ends))


@pytest.mark.parametrize(("name", "rotation"), [("layer{}", 0), ("features.{}", 45)])
def test_only_names_that_have_no_room_are_turned(figure, name, rotation):
    (axes,) = figure(draw_magnitudes, [point(name.format(10 + i), 1) for i in range(6)]).axes
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {rotation}

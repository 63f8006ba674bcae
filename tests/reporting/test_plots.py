import io

import matplotlib.image
import numpy as np
import pytest
from hand import record, ten

from rfdlight.records.summary import robust_at, success_query_of
from rfdlight.reporting import plots
from rfdlight.reporting.figures import begin, encoded
from rfdlight.reporting.plots import draw_curves, draw_on, draw_panels, steps


def test_steps_agree_with_the_accuracy_at_every_query():
    records = ten()
    queries, standing = steps(records, [success_query_of(each) for each in records], 0, 30)
    assert queries.tolist() == [0, 1, 7, 20, 30]
    assert standing.tolist() == [9, 8, 7, 6, 5]
    for query, count in zip(queries.tolist(), standing.tolist(), strict=True):
        assert robust_at(records, query).value == count / 10


def test_steps_of_a_later_start_begin_with_what_still_stands():
    records = ten()
    queries, standing = steps(records, [success_query_of(each) for each in records], 5, 20)
    assert queries.tolist() == [5, 7, 20]
    assert standing.tolist() == [8, 7, 6]


def test_steps_without_a_break_are_flat():
    queries, standing = steps([record(0)], [None], 0, 30)
    assert (queries.tolist(), standing.tolist()) == ([0, 30], [1, 1])


def pixels(figure):
    return matplotlib.image.imread(io.BytesIO(encoded(figure, "png")), "png")[..., :3]


@pytest.mark.parametrize("budget", [100, 2000])
def test_the_picture_shows_each_run_in_its_own_colour(budget):
    picture = pixels(draw_curves([("_a $b_", ten(), 30), ("c", [record(0)], budget)]))
    for colour in plots.COLOURS[:2]:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(picture - rgb).max(2) < 0.01).sum() > 500


def test_the_end_of_a_curve_is_seen_where_another_lies_on_it():
    picture = pixels(draw_curves([("a", ten(), 30), ("b", ten(), 30)]))
    beside = picture[: 3 * len(picture) // 4, -60:]  # right of the axes and above the legend
    for colour in plots.COLOURS[:2]:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(beside - rgb).max(2) < 0.01).sum() > 20


def colours_in(picture):
    shares = []
    for colour in plots.COLOURS[:3]:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        found = (np.abs(picture - rgb).max(2) < 0.01).any(0)
        # The legend is in the middle; the outer quarters hold panels alone.
        quarter = len(found) // 4
        shares.append((bool(found[:quarter].any()), bool(found[-quarter:].any())))
    return shares


def test_panels_give_each_label_one_colour():
    left = ("square, $p$", [("a", ten(), 30), ("b", [record(0)], 30)])
    right = ("rays", [("b", [record(0)], 2000), ("c", ten(), 2000)])
    assert colours_in(pixels(draw_panels([left, right]))) == [(True, False), (True, True), (False, True)]


@pytest.mark.parametrize("runs", [[], [("empty", [], 30)], [("no queries", [record(0, attack=0, billed=0)], 0)]])
@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_a_picture_of_little_is_drawn(runs, kind):
    assert encoded(draw_curves(runs), kind)


def test_curves_are_drawn_into_given_axes():
    figure = begin(4, 3)
    handles = draw_on(figure.add_subplot(), [("a", ten(), 30), ("none", [], 30)], title="mine")
    (axes,) = figure.axes
    assert (axes.get_title(), axes.get_xscale()) == ("mine", "linear")
    assert figure.legends == []
    assert [line.get_label().strip() for line in handles] == ["a", "first 9-vote success", "end of a run"]


def test_the_state_of_pyplot_is_left_alone():
    import matplotlib.pyplot

    encoded(draw_curves([("a", ten(), 30)]), "pdf")
    assert matplotlib.pyplot.get_fignums() == []

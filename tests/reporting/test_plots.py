import io

import matplotlib.image
import matplotlib.pyplot
import numpy as np
import pytest
from hand import record, ten

from rfdlight.errors import UserError
from rfdlight.records.run_folders import load_runs
from rfdlight.records.summary import Outcome, outcomes, robust_at
from rfdlight.reporting import plots
from rfdlight.reporting.plots import begin, draw_curves, draw_on, draw_panels, encoded, save, steps
from rfdlight.reporting.report_files import write_report


def test_steps_agree_with_the_accuracy_at_every_query():
    records = ten()
    queries, standing = steps(records, [outcomes(each) for each in records], 0, 30)
    assert queries.tolist() == [0, 1, 7, 20, 30]
    assert standing.tolist() == [9, 8, 7, 6, 5]
    for query, count in zip(queries.tolist(), standing.tolist(), strict=True):
        assert robust_at(records, query).value == count / 10


def test_steps_of_a_later_start_begin_with_what_still_stands():
    records = ten()
    queries, standing = steps(records, [outcomes(each) for each in records], 5, 20)
    assert queries.tolist() == [5, 7, 20]
    assert standing.tolist() == [8, 7, 6]


def test_steps_rise_where_a_later_submission_is_robust():
    found = [Outcome(10, True), Outcome(10, True), Outcome(20, False), Outcome(30, True)]
    queries, standing = steps([record(0), record(1)], [found, []], 0, 30)
    assert (queries.tolist(), standing.tolist()) == ([0, 10, 20, 30], [2, 1, 2, 1])


def test_steps_without_a_break_are_flat():
    queries, standing = steps([record(0)], [[]], 0, 30)
    assert (queries.tolist(), standing.tolist()) == ([0, 30], [1, 1])


def pixels(figure):
    return matplotlib.image.imread(io.BytesIO(encoded(figure, "png")), "png")[..., :3]


def test_the_picture_shows_each_run_in_its_own_colour():
    picture = pixels(draw_curves([(r"_a $\frac$_", ten(), 30), ("c", [record(0)], 2000)]))
    for colour in plots.COLOURS[:2]:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(picture - rgb).max(2) < 0.01).sum() > 500


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
    left = (r"square, $\frac$", [("a", ten(), 30), ("b", [record(0)], 30)])
    right = ("rays", [("b", [record(0)], 2000), ("c", ten(), 2000)])
    assert colours_in(pixels(draw_panels([left, right]))) == [(True, False), (True, True), (False, True)]


@pytest.mark.parametrize("runs", [[], [("empty", [], 30)], [("no queries", [record(0, attack=0, billed=0)], 0)]])
def test_a_picture_of_little_is_drawn(runs):
    draw_curves(runs).draw_without_rendering()


def test_curves_are_drawn_into_given_axes():
    figure = begin(4, 3)
    handles = draw_on(figure.add_subplot(), [("a", ten(), 30), ("none", [], 30)], title="mine")
    (axes,) = figure.axes
    assert (axes.get_title(), axes.get_xscale()) == ("mine", "linear")
    assert figure.legends == []
    assert [line.get_label().strip() for line in handles] == ["a", "first 9-vote success"]
    (curve,) = [line for line in axes.lines if line.get_label() == " a"]
    assert (curve.get_marker(), curve.get_xdata()[curve.get_markevery()[0]]) == ("o", 30)


def test_a_second_run_in_the_same_axes_has_the_next_colour():
    axes = begin(4, 3).add_subplot()
    lines = [draw_on(axes, [(name, [record(0)], 30)])[0] for name in "ab"]
    assert [line.get_color() for line in lines] == list(plots.COLOURS[:2])


def test_the_same_figure_is_the_same_svg_without_a_date():
    first, second = (encoded(draw_curves([("a", ten(), 30)]), "svg") for _ in range(2))
    assert first == second
    assert b"dc:date" not in first


def figure(label="a line"):
    drawn = begin(3, 2)
    drawn.add_subplot().plot([0, 1], [0, 1], label=label)
    drawn.legend()
    return drawn


def test_a_figure_is_written_as_pixels_and_beside_them_as_lines(tmp_path):
    before = dict(matplotlib.rcParams)
    save(figure("évaluation \\$x_1 σ \U0001f600"), tmp_path / "curve.png")
    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "curve.pdf"}
    assert matplotlib.image.imread(tmp_path / "curve.png").shape[:2] == (400, 600)
    pdf = (tmp_path / "curve.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert b"/Subtype /Image" not in pdf
    assert b"/Subtype /Type3" not in pdf
    assert b"/FontFile2" in pdf
    assert b"Date" not in pdf
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []


def test_a_report_has_its_curves_in_files_of_pixels_and_of_lines(two, tmp_path):
    write_report(load_runs(two), tmp_path / "out")
    picture = matplotlib.image.imread(tmp_path / "out" / "curves.png")[..., :3]
    assert np.ptp(picture, axis=2).max() > 0.3, "a curve has a colour"
    pdf = (tmp_path / "out" / "curves.pdf").read_bytes()
    assert (pdf[:5], pdf.rstrip()[-5:]) == (b"%PDF-", b"%%EOF")


@pytest.mark.parametrize("name", ["curve.png", "curve.pdf"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"cannot write .*{name}"):
        save(figure(), tmp_path / "curve.png")

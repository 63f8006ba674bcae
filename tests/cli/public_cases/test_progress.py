"""Passes that fit the images, progress that is not biased, and a line for every phase.

After https://github.com/thu-ml/ares/pull/17 and https://github.com/rtaori/Black-Box-Audio/issues/19: long attacks of
which nobody knew how far they were.
"""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from rfdlight.engine.config import rows_per_pass
from rfdlight.engine.pass_timing import PassTimer
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.evaluation.interface import ProgressDisplay, Tally, progress_line

VICTIM = "--model.victim nearest_mean.NearestMean --model.sanity_checks false"
TEST = f"test --attack square {VICTIM} --data.num_images 30 --model.budget 10 --run run"


@pytest.fixture(autouse=True)
def victims(nearest_mean):
    """The fast victims of these lines."""


def summary(run: str = "run") -> dict:
    return json.loads(Path(run, "summary.json").read_text())


@pytest.mark.parametrize(
    ("images", "eot", "processes", "rows"),
    [(1, 1, 1, 1), (2, 1, 1, 1), (30, 1, 1, 15), (127, 1, 1, 64), (10_000, 1, 1, 64), (30, 1, 4, 4), (30, 10, 1, 60),
     (2, 10, 1, 10), (30, 100, 1, 100), (3, 1, 8, 1)],
)  # fmt: skip
def test_a_pass_has_as_many_rows_as_half_of_the_images_fill(images, eot, processes, rows):
    assert rows_per_pass(images, eot, processes) == rows


@pytest.mark.slow
def test_few_images_are_attacked_in_passes_that_they_fill(command):
    assert command(*TEST.split()).status == 0
    chosen = summary()
    assert chosen["run"]["batch_size"] == 15
    assert command(*TEST.replace("--run run", "--run wide --model.batch_size 64").split()).status == 0
    wide = summary("wide")
    assert wide["run"]["batch_size"] == 64
    assert chosen["ledger"]["padding"] < wide["ledger"]["padding"] / 2


def stopped_after(monkeypatch: pytest.MonkeyPatch, records: int) -> None:
    write = Evaluation.on_record

    def write_and_stop(self, record):
        write(self, record)
        if self._done >= records:
            self.processes.stop()

    monkeypatch.setattr(Evaluation, "on_record", write_and_stop)


def test_a_stopped_run_counts_the_images_in_progress_and_says_that_the_finished_ones_are_biased(command, monkeypatch):
    with monkeypatch.context() as patch:
        stopped_after(patch, 3)
        said = command(*TEST.split(), "--attack.eps", "0.3")
    assert said.status == 1
    found = summary()
    done, begun = found["counts"]["images"], found["run"]["in_progress"]["begun"]
    assert done < 30
    assert 0 < begun <= 30 - done
    robust = found["mean_logits"]["robust"]["value"] * done
    assert found["so_far"]["total"] == done + begun
    assert found["so_far"]["value"] == pytest.approx((robust + found["run"]["in_progress"]["robust"]) / (done + begun))
    assert found["so_far"]["value"] > found["mean_logits"]["robust"]["value"]
    assert "BIASED" in said.out
    so_far = f"robust accuracy so far over all {done + begun} images begun: "
    assert so_far in " ".join(said.out.split())
    assert "run: BIASED: " in (shown := " ".join(command("report", "run").out.split()))
    assert so_far in shown

    assert command("test", "--resume", "run").status == 0
    whole = summary()
    assert whole["so_far"] is None
    assert whole["run"]["batch_size"] == found["run"]["batch_size"] == 15


@pytest.mark.slow
def test_a_run_that_is_resumed_keeps_the_shape_of_its_passes_whatever_would_be_chosen_now(command, monkeypatch):
    with monkeypatch.context() as patch:
        stopped_after(patch, 3)
        assert command(*TEST.split()).status == 1
    monkeypatch.setattr("rfdlight.evaluation.config.rows_per_pass", lambda *_: 7)
    assert command("test", "--resume", "run").status == 0
    assert summary()["run"]["batch_size"] == 15


@pytest.mark.slow
def test_a_sweep_that_is_resumed_keeps_the_batch_size_that_its_cell_has_chosen(command, monkeypatch):
    fastest = 7
    monkeypatch.setattr(PassTimer, "__call__", lambda timer, rows, channels_last: 2.0 if rows == fastest else 1.0)
    Path("grid.yaml").write_text(
        "common: {data: {class_path: digits, init_args: {num_images: 30}}, attack: square,\n"
        "  model: {budget: 10000, compile: false, sanity_checks: false, victim: nearest_mean.NearestMean}}\n"
        "axes: {eps: {large: {attack: {init_args: {eps: 0.4}}}}}\n"
    )
    with monkeypatch.context() as patch:
        stopped_after(patch, 3)
        assert command("sweep", "grid.yaml").status == 1
    fastest = 15
    assert command("sweep", "grid.yaml").status == 0
    found = summary("runs/grid/large")
    assert (found["run"]["batch_size"], found["run"]["attempts"]) == (7, 2)
    assert "batch_size: auto" in Path("runs/grid/large/config.yaml").read_text()


@pytest.mark.slow
def test_a_damaged_shape_is_one_line(command, monkeypatch):
    with monkeypatch.context() as patch:
        stopped_after(patch, 3)
        assert command(*TEST.replace("30", "8").split()).status == 1
    path = Path("run/fingerprint.json")
    whole = path.read_text()
    for batch_size in ('"x"', "-3", "100000000000", "true"):
        path.write_text(re.sub(r'"batch_size": \d+', f'"batch_size": {batch_size}', whole))
        said = command("test", "--resume", "run")
        assert said.status == 3
        assert "batch_size is 4" in said.err


def test_images_in_progress_count_as_robust_so_far():
    assert Tally().robust_so_far is None
    assert Tally(done=16, robust=0, begun=14, holding=14).robust_so_far == pytest.approx(14 / 30)
    assert Tally(done=4, robust=1, begun=4, holding=2).robust_so_far == pytest.approx(3 / 8)


@pytest.mark.parametrize(
    ("tally", "left"),
    [
        (Tally(), 3000),
        (Tally(begun=30, holding=30, queries=300), 2700),
        (Tally(done=10, begun=20, holding=20, queries=500, settled=300), 1800),
        (Tally(done=30, queries=900, settled=900), 0),
        (Tally(done=29, begun=1, queries=5000, settled=900), 0),
    ],
)
def test_the_queries_left_are_at_most_the_budget_of_every_unfinished_image(tally, left):
    assert tally.queries_left(30, 100) == left


def test_the_progress_line_has_the_time_left_and_fits_a_terminal():
    line = progress_line(Tally(done=10, begun=20, holding=20, queries=500, settled=300), 30, 100, seconds=50.0)
    assert line == "10/30 robust so far 66.7% 10 queries/s 0:50 at most 3:00 left"
    assert "unknown" in progress_line(Tally(), 30, 100, 0.1)
    longest = progress_line(Tally(9_999, 5_000, 1, 1, 9_999_999, 0), 10_000, 10_000, 9_999.0)
    assert len(longest) <= 90


def test_the_line_is_drawn_on_a_terminal_alone():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    display = ProgressDisplay(terminal, 30, 100)
    assert display.due
    display.update(Tally(done=3, robust=1, begun=27, holding=27, queries=100, settled=10))
    assert not display.due
    display.close()
    assert "robust so far 93.3%" in terminal.file.getvalue()
    silent = ProgressDisplay(Console(file=io.StringIO()), 30, 100)
    assert not silent.due
    silent.close()


@pytest.mark.slow
def test_a_recommendation_says_each_of_its_steps_and_candidates(command):
    line = (
        "recommend nearest_mean.NearestMean --data digits --layers [pixels,distances] --target_drop 0.1 "
        "--tolerance 0.05 --max_draws 4 --num_images 6 --budget 3 --confirm 1"
    )
    said = command(*line.split())
    assert said.status == 0
    steps = [said.out.index(f"step {number} of 3: ") for number in (1, 2, 3)]
    assert steps == sorted(steps)
    assert len(re.findall(r"^.*: sigma \S+ costs ", said.out[steps[1] : steps[2]], re.MULTILINE)) >= 3


GRID = """
common: {data: {class_path: digits, init_args: {num_images: 4}}, model: {budget: 3, sanity_checks: false,
  victim: nearest_mean.NearestMean}}
axes: {attack: {square: {attack: square}, rays: {attack: rays}}}
"""


@pytest.mark.slow
def test_a_sweep_prints_one_line_for_each_cell_with_its_headline_and_the_time_left(command):
    Path("grid.yaml").write_text(GRID)
    said = command("sweep", "grid.yaml")
    assert said.status == 0
    first, second = said.out.splitlines()[:2]
    assert re.fullmatch(
        r"cell 1 of 2, square: robust .*%.*, clean .*%; \d+:\d\d, all \d+:\d\d, about \d+:\d\d left", first
    )
    assert re.fullmatch(r"cell 2 of 2, rays: robust .*; \d+:\d\d, all \d+:\d\d", second)
    for cell in ("square", "rays"):
        output = Path("runs/grid", cell, "output.txt").read_text()
        assert "robust accuracy (Definition 1)" in output
        assert "consistency checks: " in output

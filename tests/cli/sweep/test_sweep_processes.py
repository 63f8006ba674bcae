"""Cells of a sweep that several processes run."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from rfdlight.errors import ResumeError

from .grid import CELLS, GRID, summary_of

pytestmark = pytest.mark.usefixtures("grid")


TRACEBACK = """GPU available: False
Traceback (most recent call last):
  File "mine.py", line 3, in ask
    raise ValueError("too hard")
ValueError: too hard
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "errors", "reason"),
    [
        (1, TRACEBACK, "ValueError: too hard"),
        pytest.param(-9, "", "it ended with exit status -9", marks=pytest.mark.slow),
    ],
)
def test_a_cell_run_apart_that_crashes_is_told_and_the_others_go_on(command, monkeypatch, status, errors, reason):
    Path("grid.yaml").write_text(GRID.replace("rays: {attack: rays}", "rays: {attack: rays, trainer: {devices: 2}}"))
    monkeypatch.setattr(subprocess, "run", lambda line, **_: subprocess.CompletedProcess(line, status, "", errors))
    said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert f"shipped-rays failed: {reason}\n" in said.out
    assert "2 of 4 cells failed: shipped-rays, own-rays" in said.out
    assert all(summary_of(cell)["run"]["complete"] for cell in CELLS[::2])


def test_a_cell_run_apart_that_was_stopped_ends_the_sweep(command, monkeypatch):
    def stopped(line, **_):
        place = Path(line[line.index("--run") + 1])
        place.mkdir()
        (place / "summary.json").write_text(json.dumps({"run": {"complete": False}}))
        return subprocess.CompletedProcess(line, 1, "", "GPU available: False\n[rank0]: a farewell of torch's\n")

    Path("grid.yaml").write_text(GRID.replace("shipped: {}", "shipped: {trainer: {devices: 2}}"))
    monkeypatch.setattr(subprocess, "run", stopped)
    said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert said.out.endswith("stopped; the same command goes on from here\n")
    assert "cell 2 of 4" not in said.out


@pytest.mark.slow
def test_a_cell_run_apart_that_cannot_be_resumed_begins_anew(command, swept, monkeypatch):
    lines = []

    def refused(line, **_):
        lines.append(line[3:])
        status = ResumeError.exit_status if "--resume" in line else 2
        return subprocess.CompletedProcess(line, status, "", "rfdlight: another experiment\n")

    cell = Path("runs/grid/shipped-square")
    (cell / "summary.json").unlink()
    changed = yaml.safe_load(Path(f"{cell}.yaml").read_text()) | {"trainer": {"devices": 2}}
    Path(f"{cell}.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    Path("grid.yaml").write_text(
        GRID.replace("square: {attack: square}", "square: {attack: square, trainer: {devices: 2}}")
    )
    Path("runs/grid/own-square.yaml").unlink()
    shutil.rmtree("runs/grid/own-square")
    monkeypatch.setattr(subprocess, "run", refused)
    said = command("sweep", "grid.yaml")
    assert "another experiment; it began anew" in said.out
    assert [line[1] for line in lines][:2] == ["--resume", "-c"]


RAISING = """
from rfdlight.attacks import Square

class Raising(Square):
    def ask(self, state):
        raise ValueError("too hard")
"""


@pytest.mark.slow
def test_an_attack_that_raises_in_several_processes_is_told_and_the_others_go_on(command, elsewhere):
    (elsewhere / "raising.py").write_text(RAISING)
    crash = "crash: {attack: raising.Raising, trainer: {devices: 2}}"
    (elsewhere / "grid.yaml").write_text(
        f"{GRID.partition('axes')[0]}axes: {{a: {{{crash}, square: {{attack: square}}}}}}"
    )
    said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert re.search("crash failed: .*ValueError: too hard", said.out)
    assert "1 of 2 cells failed: crash" in said.out
    assert summary_of("square")["run"]["complete"]


@pytest.mark.slow
def test_a_cell_of_several_processes_is_run_by_so_many(command, elsewhere):
    (elsewhere / "grid.yaml").write_text(GRID.replace("shipped: {}", "shipped: {trainer: {devices: 2}}"))
    assert command("sweep", "grid.yaml", "--dry_run", "true").status == 0
    assert command("sweep", "grid.yaml").status == 0
    assert {cell: summary_of(cell)["run"]["processes"] for cell in CELLS} == {
        "shipped-square": 2, "shipped-rays": 2, "own-square": 1, "own-rays": 1,
    }  # fmt: skip

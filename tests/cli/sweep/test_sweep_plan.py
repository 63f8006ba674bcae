"""What a sweep finds out before its first cell runs, and what its dry run says."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from harness import others_slow

from rfdlight.cli import main as cli
from rfdlight.cli.sweep import cells, estimate
from rfdlight.victims.resolve import resolve_victim

from .grid import CELLS, GRID, made_at

pytestmark = pytest.mark.usefixtures("grid")


def test_a_dry_run_lists_the_cells_with_times_and_makes_nothing(command, elsewhere):
    said = command("sweep", "grid.yaml", "--dry_run", "true")
    assert said.status == 0
    for cell in CELLS:
        assert re.search(rf"{cell} +4 +4 +\d+\.\d min", said.out)
    assert "4 of 4 to run" in said.out
    assert sorted(path.name for path in elsewhere.iterdir() if path.name != "__pycache__") == [
        "faulty_victim.py",
        "grid.yaml",
    ]


@pytest.mark.slow
def test_a_dry_run_lists_cells_that_are_complete_too(command, swept):
    said = command("sweep", "grid.yaml", "--dry_run", "true")
    assert all(re.search(rf"{cell} +4 +4 +done", said.out) for cell in CELLS)
    assert "0 of 4 to run" in said.out


def test_the_estimate_of_a_dry_run_counts_the_queries(command, monkeypatch):
    monkeypatch.setattr(estimate, "_rows_per_second", lambda cell: 2.0)
    Path("grid.yaml").write_text(
        "common: {data: digits, attack: square, model: {budget: 150}}\n"
        "axes: {size: {many: {data: {init_args: {num_images: 60}}}, few: {data: {init_args: {num_images: 4}}}}}"
    )
    said = command("sweep", "grid.yaml", "--dry_run", "true")
    assert said.status == 0
    assert re.findall(r"(\w+) +(\d+) +150 +([\d.]+) min", said.out) == [("many", "60", "75.0"), ("few", "4", "5.0")]
    assert "2 of 2 to run" in said.out
    assert "80.0 min" in said.out


OWN = """
from rfdlight.attacks import Square
from rfdlight.data import Digits

class Plain(Square):
    def __init__(self):
        super().__init__(eps=0.1)

class Few(Digits):
    def __init__(self):
        super().__init__(num_images=3)

class Raising(Square):
    def __init__(self):
        raise RuntimeError("no luck\\nat all")
"""


@pytest.fixture
def own():
    Path("own.py").write_text(OWN)
    yield
    sys.modules.pop("own", None)


@pytest.mark.slow
def test_classes_of_ones_own_need_not_have_the_options_of_ours(command, own):
    Path("grid.yaml").write_text(
        "common: {data: own.Few, model: {budget: 4, sanity_checks: false}}\naxes: {a: {x: {attack: own.Plain}}}"
    )
    said = command("sweep", "grid.yaml", "--dry_run", "true")
    assert (said.status, said.err) == (0, "")
    assert re.search(r"x +3 +4 +\d+\.\d min", said.out)


def test_cells_of_other_settings_are_not_taken_for_these(command, swept):
    before = made_at()
    Path("grid.yaml").write_text(GRID.replace("budget: 4", "budget: 5"))
    said = command("sweep", "grid.yaml")
    assert said.status == 2
    assert said.err == (
        "rfdlight: runs/grid/shipped-square was not made from this experiment's settings; give --output another "
        "folder, or remove that one and shipped-square.yaml\n"
    )
    assert made_at() == before


@pytest.mark.parametrize(
    ("settings", "said"),
    others_slow(
        [
            ("attack: own.Raising", "RuntimeError: no luck at all (own.py, line "),
            ("model: {victim: resnet8-digit}", "unknown victim 'resnet8-digit'; did you mean resnet8-digits or "),
            ("defense: {class_path: feature_noise, init_args: {sigma: 1, layers: nowhere}}", "no layer "),
            ("trainer: {accelerator: abacus}", "You selected an invalid accelerator name"),
        ],
        1,
    ),
)
def test_what_is_wrong_with_any_cell_is_found_before_the_first_runs(command, own, settings, said):
    Path("grid.yaml").write_text(f"{GRID}  last:\n    good: {{}}\n    bad: {{{settings}}}\n")
    found = command("sweep", "grid.yaml")
    assert (found.status, found.out) == (2, "")
    assert found.err.startswith(f"rfdlight: cell shipped-square-bad: {said}")
    assert found.err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_victim_is_loaded_once_for_all_of_its_cells_that_are_to_run(command, monkeypatch):
    loaded = []

    def counted(victim, *others):
        loaded.append(victim)
        return resolve_victim(victim, *others)

    Path("grid.yaml").write_text(
        "common: {data: {class_path: digits, init_args: {num_images: 2}}, model: {budget: 1, sanity_checks: false}}\n"
        "axes: {a: {x: {attack: square}, y: {attack: rays}}, b: {s: {}, o: {model: {victim: faulty_victim.net}}}}"
    )
    monkeypatch.setattr(cells, "resolve_victim", counted)
    monkeypatch.setattr(estimate, "_rows_per_second", lambda cell: 1.0)
    assert command("sweep", "grid.yaml", "--dry_run", "true").status == 0
    assert loaded == [None, "faulty_victim.net"]


@pytest.mark.slow
def test_cells_that_are_complete_are_not_made_again(command, swept, monkeypatch):
    shutil.rmtree("runs/grid/own-rays")
    made = []
    make = cli.make
    monkeypatch.setattr(cli, "make", lambda line: made.append(Path(line[-1]).stem) or make(line))
    assert command("sweep", "grid.yaml").status == 0
    assert made == ["own-rays"]
    assert command("sweep", "grid.yaml").status == 0
    assert made == ["own-rays"]


def test_a_sweep_that_a_launcher_has_started_is_refused(command, monkeypatch):
    launched = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    said = command("sweep", "grid.yaml")
    assert (said.status, said.err) == (
        2,
        "rfdlight: rfdlight sweep starts the processes of its cells itself: start it once, and give trainer.devices in "
        "the experiment\n",
    )
    assert not Path("runs").exists()

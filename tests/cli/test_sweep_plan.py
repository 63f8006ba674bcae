"""What a sweep finds out before its first cell runs, and what its dry run says."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from rfdlight.cli import main as cli
from rfdlight.cli import sweep
from rfdlight.cli.sweep_estimate import Speed
from rfdlight.victims.resolve import resolve_victim

from .sweep_grid import CELLS, GRID, VICTIM, made_at

pytestmark = pytest.mark.usefixtures("grid")


def test_a_dry_run_lists_the_cells_with_times_and_makes_nothing(command, elsewhere):
    said = command("sweep", "grid.yaml", "--dry_run", "true")
    assert said.status == 0
    for cell in CELLS:
        assert re.search(rf"{cell} +4 +4 +[\d,]+ +\d+\.\d min", said.out)
    assert "4 of 4 to run" in said.out
    assert "at most" not in said.out
    assert sorted(path.name for path in elsewhere.iterdir() if path.name != "__pycache__") == [
        "faulty_victim.py",
        "grid.yaml",
    ]


def test_a_dry_run_lists_cells_that_are_complete_too(command, swept):
    said = command("sweep", "grid.yaml", "--dry_run", "true")
    assert all(re.search(rf"{cell} +4 +4 +done", said.out) for cell in CELLS)
    assert "0 of 4 to run" in said.out


def test_a_dry_run_of_a_victim_that_raises_is_one_line(command):
    Path("faulty_victim.py").write_text(VICTIM.replace("FAILS = False", "FAILS = True"))
    said = command("sweep", "grid.yaml", "--dry_run", "true")
    assert (said.status, said.err) == (2, "rfdlight: cell own-square: the victim raised RuntimeError: no memory\n")


def test_the_estimate_of_a_dry_run_counts_padded_rows_and_the_draws_of_a_random_victim(command, monkeypatch):
    speeds = {"rigid": Speed(10.0, True), "random": Speed(10.0, False)}
    monkeypatch.setattr(
        sweep, "speeds_of", lambda cells, *_: {cell.name: speeds[cell.name.partition("-")[0]] for cell in cells}
    )
    axes = """
axes:
  speed: {rigid: {}, random: {}}
  size:
    full: {data: {init_args: {num_images: 60}}}
    few: {data: {init_args: {num_images: 4}}}
    pool_size: {data: {init_args: {num_images: 60}}, model: {pool_size: 6}}
    eot: {data: {init_args: {num_images: 4}}, model: {eot: 6}}
"""
    common = "common: {data: digits, attack: square, model: {budget: 150, batch_size: 24, final_evaluations: 80, sanity_checks: false}}"
    Path("grid.yaml").write_text(common + axes)
    said = command("sweep", "grid.yaml", "--dry_run", "true")
    assert said.status == 0
    told = dict(re.findall(r"(r\w+-\w+) .* ([\d.]+) min", said.out))
    rows = {
        "rigid-full": 60 * 150 + 60 * 3,
        "rigid-few": 24 * 150 + 4 * 3,
        "rigid-pool_size": 60 / 6 * 24 * 150 + 60 * 3,
        "rigid-eot": 4 * 150 + 4 * 3,
        "random-full": 60 * 150 + 60 * 100,
        "random-few": 24 * 150 + 4 * 100,
        "random-pool_size": 60 / 6 * 24 * 150 + 60 * 100,
        "random-eot": 4 * 150 + 4 * 100,
    }
    assert told == {cell: f"{count / 10 / 60:.1f}" for cell, count in rows.items()}
    assert f"{sum(rows.values()) / 10 / 60:.1f} min" in said.out


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


def test_classes_of_ones_own_need_not_have_the_options_of_ours(command, own):
    Path("grid.yaml").write_text(
        "common: {data: own.Few, model: {budget: 4, sanity_checks: false}}\naxes: {a: {x: {attack: own.Plain}}}"
    )
    said = command("sweep", "grid.yaml", "--dry_run", "true")
    assert (said.status, said.err) == (0, "")
    assert re.search(r"x +3 +4 +[\d,]+ +\d+\.\d min", said.out)
    assert command("sweep", "grid.yaml").status == 0
    assert command("sweep", "grid.yaml", "--dry_run", "true").out.count("done") == 1


def test_a_configuration_of_a_cell_that_is_no_text_is_not_taken_for_its_own(command):
    Path("runs/grid/shipped-square").mkdir(parents=True)
    Path("runs/grid/shipped-square.yaml").write_bytes(b"\xff\xfe")
    said = command("sweep", "grid.yaml")
    assert said.status == 2
    assert said.err.startswith("rfdlight: runs/grid/shipped-square was not made from this experiment's settings; ")


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
    [
        ("model: {budget: -1}", "model.budget must be at least 0, got -1"),
        ("attack: {init_args: {eps: -1}}", "attack.eps must be a positive number of pixel units, got -1.0"),
        ("attack: {init_args: {norm: l2}}", "attack.eps must be given for l2"),
        ("attack: own.Raising", "RuntimeError: no luck at all (own.py, line "),
        ("data: {init_args: {num_images: 100000}}", "data.num_images "),
        ("model: {victim: resnet8-digit}", "unknown victim 'resnet8-digit'; did you mean resnet8-digits or "),
        (
            "model: {victim: faulty_victim.net, checkpoint: none.safetensors}",
            "no weights at none.safetensors",
        ),
        ("defense: {class_path: feature_noise, init_args: {sigma: 1, layers: nowhere}}", "no layer "),
        ("trainer: {accelerator: abacus}", "You selected an invalid accelerator name"),
    ],
)
def test_what_is_wrong_with_any_cell_is_found_before_the_first_runs(command, own, settings, said):
    Path("grid.yaml").write_text(f"{GRID}  last:\n    good: {{}}\n    bad: {{{settings}}}\n")
    for dry in ("true", "false"):
        found = command("sweep", "grid.yaml", "--dry_run", dry)
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
    monkeypatch.setattr(sweep, "resolve_victim", counted)
    assert command("sweep", "grid.yaml").status == 0
    assert loaded == [None, "faulty_victim.net"]
    shutil.rmtree("runs/grid/x-o")
    assert command("sweep", "grid.yaml").status == 0
    assert loaded[2:] == ["faulty_victim.net"]


def test_cells_that_are_complete_are_not_made_again(command, swept, monkeypatch):
    shutil.rmtree("runs/grid/own-rays")
    made = []
    make = cli.make
    monkeypatch.setattr(cli, "make", lambda line: made.append(Path(line[-1]).stem) or make(line))
    assert "1 of 4 to run" in command("sweep", "grid.yaml", "--dry_run", "true").out
    assert command("sweep", "grid.yaml").status == 0
    assert made == ["own-rays"] * 2
    assert command("sweep", "grid.yaml").status == 0
    assert made == ["own-rays"] * 2


def test_a_cell_that_cannot_be_used_is_refused_before_the_first_runs(command):
    Path("grid.yaml").write_text(GRID + "    wrong: {attack: sqare}\n")
    said = command("sweep", "grid.yaml")
    assert (said.status, said.err) == (
        2,
        "rfdlight: cell shipped-wrong: unknown attack 'sqare'; did you mean square?\n",
    )
    assert not Path("runs").exists()


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

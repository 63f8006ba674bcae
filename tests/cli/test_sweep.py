"""`rfdlight sweep`: every cell is run once, whatever happens in between."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rfdlight import cli
from rfdlight.attacks import Square
from rfdlight.commands import sweep
from rfdlight.data import CIFAR10, Digits
from rfdlight.modules.complaint import STOPPED
from rfdlight.modules.evaluation import AttackEvaluation
from rfdlight.protocol.experiment import read_cells
from rfdlight.victims.resolve import resolve_victim

GRID = """
common:
  data: {class_path: digits, init_args: {num_images: 4}}
  model: {budget: 4, batch_size: 3, slots: 3, controls: false}
axes:
  victim:
    shipped: {}
    own: {model: {victim: faulty_victim.net}}
  attack:
    square: {attack: square}
    rays: {attack: rays}
"""
VICTIM = """
import torch
from torch import nn

FAILS = False

class Net(nn.Module):
    def forward(self, x):
        if FAILS and len(x) == 3:
            raise RuntimeError("no memory\\nat all")
        return x.flatten(1)[:, :10]

net = Net
"""
CELLS = ["shipped-square", "shipped-rays", "own-square", "own-rays"]


@pytest.fixture(autouse=True)
def grid(elsewhere):
    (elsewhere / "grid.yaml").write_text(GRID)
    (elsewhere / "faulty_victim.py").write_text(VICTIM)
    yield
    sys.modules.pop("faulty_victim", None)


def summary_of(cell: str) -> dict:
    return json.loads(Path("runs/grid", cell, "summary.json").read_text())


def made_at(cells=CELLS) -> dict[str, int]:
    return {cell: Path("runs/grid", cell, "summary.json").stat().st_mtime_ns for cell in cells}


def test_every_cell_is_run_with_its_settings_and_reported(command):
    said = command("sweep", "grid.yaml")
    assert said.status == 0
    for cell in CELLS:
        run = summary_of(cell)["run"]
        assert run["complete"]
        assert (run["attack"], run["budget"], run["num_images"]) == (cell.split("-")[1], 4, 4)
        assert run["victim"].startswith("resnet8-digits" if cell.startswith("shipped") else "faulty_victim.net")
    report = Path("runs/grid/report-grid/report.md").read_text()
    assert all(cell in report for cell in CELLS)


@pytest.mark.parametrize(
    ("given", "meant"), [("cifar10", CIFAR10), ("digits", Digits), ("{class_path: cifar10}", CIFAR10)]
)
@pytest.mark.parametrize("refined", ["{init_args: {num_images: 5}}", "{num_images: 5}"])
def test_data_that_an_axis_refines_stay_the_data_that_were_named(given, meant, refined):
    Path("grid.yaml").write_text(
        f"common: {{data: {given}, attack: square, model: {{budget: 5}}}}\n"
        f"axes: {{n: {{few: {{data: {refined}}}, all: {{}}}}, e: {{small: {{attack: {{init_args: {{eps: 0.1}}}}}}}}}}"
    )
    made = {}
    for cell in read_cells(Path("grid.yaml")):
        Path("cell.yaml").write_text(yaml.safe_dump(cell.config))
        made[cell.name] = cli.make(["test", "-c", "cell.yaml"])
    assert {type(each.datamodule) for each in made.values()} == {meant}
    assert made["few-small"].datamodule.num_images == 5 != made["all-small"].datamodule.num_images
    assert isinstance(made["few-small"].model.attack, Square)
    assert made["few-small"].model.attack.eps == 0.1


def test_only_what_is_missing_is_run_again(command):
    assert command("sweep", "grid.yaml").status == 0
    before = made_at()
    lost, cut = Path("runs/grid/own-rays"), Path("runs/grid/shipped-rays")
    shutil.rmtree(lost)
    summary = summary_of("shipped-rays")
    summary["run"]["complete"] = False
    (cut / "summary.json").write_text(json.dumps(summary))
    lines = (cut / "records.jsonl").read_text().splitlines()
    (cut / "records.jsonl").unlink()
    (cut / "journal/records-0-0.jsonl").write_text("".join(f"{line}\n" for line in lines[:3]))
    said = command("sweep", "grid.yaml")
    assert said.status == 0
    assert re.findall(r"cell \d of \d to run: (.*)", said.out) == ["shipped-rays", "own-rays"]
    after = made_at()
    assert [cell for cell in CELLS if after[cell] == before[cell]] == ["shipped-square", "own-square"]
    assert summary_of("shipped-rays")["counts"]["images"] == 4
    assert summary_of("shipped-rays")["run"]["attempts"] == 2
    assert (cut / "records.jsonl").read_text().splitlines() == lines


def test_a_cell_of_older_code_is_not_gone_on_with(command):
    assert command("sweep", "grid.yaml").status == 0
    cut = Path("runs/grid/shipped-rays")
    (cut / "summary.json").unlink()
    identity = json.loads((cut / "identity.json").read_text())
    (cut / "identity.json").write_text(json.dumps({**identity, "code of rfdlight": "older"}))
    said = command("sweep", "grid.yaml")
    assert said.status == 0
    assert "two experiments would be mixed: code of rfdlight is " in said.out
    assert ", was older; it begins anew" in said.out
    assert summary_of("shipped-rays")["run"]["attempts"] == 1


def test_cells_of_other_settings_are_not_taken_for_these(command):
    assert command("sweep", "grid.yaml").status == 0
    before = made_at()
    Path("grid.yaml").write_text(GRID.replace("budget: 4", "budget: 5"))
    said = command("sweep", "grid.yaml")
    assert said.status == 2
    assert said.err == (
        "rfdlight: runs/grid/shipped-square was not made from this experiment's settings; give --output another "
        "folder, or remove that one and shipped-square.yaml\n"
    )
    assert made_at() == before


def test_a_cell_that_fails_is_told_and_the_others_go_on(command):
    Path("faulty_victim.py").write_text(VICTIM.replace("FAILS = False", "FAILS = True"))
    said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert "own-square failed: the victim raised RuntimeError: no memory" in said.out
    assert "2 of 4 cells failed: own-square, own-rays" in said.out
    assert all(summary_of(cell)["run"]["complete"] for cell in CELLS[:2])
    sys.modules.pop("faulty_victim")
    Path("faulty_victim.py").write_text(VICTIM)
    before = made_at(CELLS[:2])
    assert command("sweep", "grid.yaml").status == 0
    assert made_at(CELLS[:2]) == before


def test_a_signal_ends_the_sweep_and_the_next_one_goes_on(command, monkeypatch):
    write = AttackEvaluation._on_record

    def write_and_signal(self, record):
        write(self, record)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(AttackEvaluation, "_on_record", write_and_signal)
        said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert said.out.endswith("stopped; the same command goes on from here\n")
    assert not Path("runs/grid/shipped-rays").exists()
    assert command("sweep", "grid.yaml").status == 0
    assert all(summary_of(cell)["run"]["complete"] for cell in CELLS)


def test_ctrl_c_before_the_attack_of_a_cell_ends_the_sweep_too(command, monkeypatch):
    def interrupted(self, stage):
        raise KeyboardInterrupt

    monkeypatch.setattr(AttackEvaluation, "setup", interrupted)
    said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert said.out.endswith("stopped; the same command goes on from here\n")
    assert "cell 2 of 4" not in said.out


def test_a_dry_run_of_a_victim_that_raises_is_one_line(command):
    Path("faulty_victim.py").write_text(VICTIM.replace("FAILS = False", "FAILS = True"))
    said = command("sweep", "grid.yaml", "--dry_run", "true")
    assert (said.status, said.err) == (2, "rfdlight: cell own-square: the victim raised RuntimeError: no memory\n")


FAILING = """
from rfdlight.data import Digits

HARD = Digits(num_images=4).attacked().read([3]).float().div(255)

def fail(victim, inputs):
    if (inputs[0] == HARD).flatten(1).all(1).any():
        raise ValueError("too hard")

def net():
    made = Net()
    made.register_forward_pre_hook(fail)
    return made
"""


def test_a_cell_in_which_an_image_fails_is_told_and_reported_and_not_run_again(command):
    Path("faulty_victim.py").write_text(VICTIM + FAILING)
    assert command("sweep", "grid.yaml", "--dry_run", "true").status == 0
    said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert "own-rays failed: 1 of 4 images failed and are in no number; summary.json says why" in said.out
    assert "2 of 4 cells failed: own-square, own-rays" in said.out
    assert "FAILED: 1 of 4 images of own-rays, in no number." in Path("runs/grid/report-grid/report.md").read_text()
    before = made_at()
    assert command("sweep", "grid.yaml").status == 0
    assert made_at() == before


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
    assert command("sweep", "grid.yaml").status == 0
    said = command("sweep", "grid.yaml", "--dry_run", "true")
    assert "0 of 4 to run" in said.out
    assert said.out.count("done") == 4


@pytest.mark.parametrize("data", ["data: digits", "data: {class_path: digits, init_args: {num_images: 9}}", ""])
def test_fewer_images_make_an_experiment_of_their_own(command, data):
    common = f"common: {{model: {{budget: 2}}, {data or 'attack: rays'}}}"
    Path("grid.yaml").write_text(f"{common}\naxes: {{a: {{x: {{attack: square}}}}}}")
    assert command("sweep", "grid.yaml", "--num_images", "2").status == 0
    assert json.loads(Path("runs/grid-2/x/summary.json").read_text())["counts"]["images"] == 2
    assert json.loads(Path("runs/grid-2/x/summary.json").read_text())["run"]["batch_size"] == 1
    assert Path("runs/grid-2/report-grid-2/report.md").is_file()


def test_fewer_images_are_asked_in_smaller_passes_but_not_below_what_a_query_averages(command):
    axes = "axes: {m: {one: {}, wide: {model: {eot: 3}}, small: {model: {batch_size: 1}}}}"
    Path("grid.yaml").write_text(f"common: {{attack: square, model: {{budget: 3, batch_size: 8}}}}\n{axes}")
    assert command("sweep", "grid.yaml", "--num_images", "9").status == 0
    sizes = {
        cell: json.loads(Path(f"runs/grid-9/{cell}/summary.json").read_text())["run"]["batch_size"]
        for cell in ("one", "wide", "small")
    }
    assert sizes == {"one": 2, "wide": 3, "small": 1}


def test_the_estimate_of_a_dry_run_counts_padded_rows_and_the_draws_of_a_random_victim(command, monkeypatch):
    speeds = {"rigid": sweep._Speed(10.0, True), "random": sweep._Speed(10.0, False)}
    monkeypatch.setattr(
        sweep, "_rates", lambda cells, *_: {cell.name: speeds[cell.name.partition("-")[0]] for cell in cells}
    )
    axes = """
axes:
  speed: {rigid: {}, random: {}}
  size:
    full: {data: {init_args: {num_images: 60}}}
    few: {data: {init_args: {num_images: 4}}}
    slots: {data: {init_args: {num_images: 60}}, model: {slots: 6}}
    eot: {data: {init_args: {num_images: 4}}, model: {eot: 6}}
"""
    common = "common: {data: digits, attack: square, model: {budget: 150, batch_size: 24, final_draws: 80}}"
    Path("grid.yaml").write_text(common + axes)
    said = command("sweep", "grid.yaml", "--dry_run", "true")
    assert said.status == 0
    told = dict(re.findall(r"(r\w+-\w+) .* ([\d.]+) min", said.out))
    rows = {
        "rigid-full": 60 * 150 + 60 * 2,
        "rigid-few": 24 * 150 + 4 * 2,
        "rigid-slots": 60 / 6 * 24 * 150 + 60 * 2,
        "rigid-eot": 4 * 150 + 4 * 2,
        "random-full": 60 * 150 + 60 * 100,
        "random-few": 24 * 150 + 4 * 100,
        "random-slots": 60 / 6 * 24 * 150 + 60 * 100,
        "random-eot": 4 * 150 + 4 * 100,
    }
    assert told == {cell: f"{count / 10 / 60:.1f}" for cell, count in rows.items()}
    assert f"{sum(rows.values()) / 10 / 60:.1f} min" in said.out.splitlines()[-2]


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
        "common: {data: own.Few, model: {budget: 4, controls: false}}\naxes: {a: {x: {attack: own.Plain}}}"
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


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("model: {budget: -1}", "model.budget must be at least 0, got -1"),
        ("attack: {init_args: {eps: -1}}", "attack.eps must be a positive number of pixel units, got -1.0"),
        ("attack: {init_args: {norm: l2}}", "attack.eps must be given for l2"),
        ("attack: own.Raising", "no luck at all"),
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
        "common: {data: {class_path: digits, init_args: {num_images: 2}}, model: {budget: 1, controls: false}}\n"
        "axes: {a: {x: {attack: square}, y: {attack: rays}}, b: {s: {}, o: {model: {victim: faulty_victim.net}}}}"
    )
    monkeypatch.setattr(sweep, "resolve_victim", counted)
    assert command("sweep", "grid.yaml").status == 0
    assert loaded == [None, "faulty_victim.net"]
    shutil.rmtree("runs/grid/x-o")
    assert command("sweep", "grid.yaml").status == 0
    assert loaded[2:] == ["faulty_victim.net"]


def test_a_cell_that_cannot_be_used_is_refused_before_the_first_runs(command):
    Path("grid.yaml").write_text(GRID + "    wrong: {attack: sqare}\n")
    said = command("sweep", "grid.yaml")
    assert (said.status, said.err) == (
        2,
        "rfdlight: cell shipped-wrong: unknown attack 'sqare'; did you mean square?\n",
    )
    assert not Path("runs").exists()


TRACEBACK = """GPU available: False
Traceback (most recent call last):
  File "mine.py", line 3, in ask
    raise ValueError("too hard")
ValueError: too hard
"""


@pytest.mark.parametrize(
    ("status", "errors", "reason"),
    [(1, TRACEBACK, "ValueError: too hard"), (-9, "", "it ended with exit status -9"), (2, "rfdlight: no\n\n", "no")],
)
def test_a_cell_run_apart_that_crashes_is_told_and_the_others_go_on(command, monkeypatch, status, errors, reason):
    Path("grid.yaml").write_text(GRID.replace("shipped: {}", "shipped: {trainer: {devices: 2}}"))
    monkeypatch.setattr(subprocess, "run", lambda line, **_: subprocess.CompletedProcess(line, status, "", errors))
    said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert f"shipped-square failed: {reason}\n" in said.out
    assert "2 of 4 cells failed: shipped-square, shipped-rays" in said.out
    assert all(summary_of(cell)["run"]["complete"] for cell in CELLS[2:])


def test_a_cell_run_apart_that_was_stopped_ends_the_sweep(command, monkeypatch):
    Path("grid.yaml").write_text(GRID.replace("shipped: {}", "shipped: {trainer: {devices: 2}}"))
    errors = f"GPU available: False\nrfdlight: {STOPPED}\n[rank0]: a farewell of torch's\n"
    monkeypatch.setattr(subprocess, "run", lambda line, **_: subprocess.CompletedProcess(line, 1, "", errors))
    said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert said.out.endswith("stopped; the same command goes on from here\n")
    assert "cell 2 of 4" not in said.out


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

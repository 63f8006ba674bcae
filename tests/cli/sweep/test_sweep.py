"""`rfdlight sweep`: every cell is run once, whatever happens in between."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from hand import cut_journal
from harness import others_slow

from rfdlight.attacks import Square
from rfdlight.cli import main as cli
from rfdlight.cli.sweep.experiment import read_cells
from rfdlight.data import CIFAR10, Digits
from rfdlight.evaluation.attack_evaluation import AttackEvaluation
from rfdlight.evaluation.evaluation import Evaluation

from .grid import CELLS, GRID, VICTIM, made_at, summary_of

pytestmark = pytest.mark.usefixtures("grid")


def test_every_cell_is_run_with_its_settings_and_reported(swept):
    for cell in CELLS:
        run = summary_of(cell)["run"]
        assert run["complete"]
        assert (run["attack"], run["budget"], run["num_images"]) == (cell.split("-")[1], 4, 4)
        assert run["victim"].startswith("resnet8-digits" if cell.startswith("shipped") else "faulty_victim.net")
    report = Path("runs/grid/report-grid/report.md").read_text()
    assert all(cell in report for cell in CELLS)


@pytest.mark.parametrize(
    ("given", "meant", "refined"),
    others_slow(
        [("cifar10", CIFAR10, "{init_args: {num_images: 5}}"), ("{class_path: digits}", Digits, "{num_images: 5}")], 0
    ),
)
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


def test_only_what_is_missing_is_run_again(command, swept):
    before = made_at()
    lost, cut = Path("runs/grid/own-rays"), Path("runs/grid/shipped-rays")
    shutil.rmtree(lost)
    summary = summary_of("shipped-rays")
    summary["run"]["complete"] = False
    (cut / "summary.json").write_text(json.dumps(summary))
    lines = (cut / "records.jsonl").read_text().splitlines()
    (cut / "records.jsonl").unlink()
    cut_journal(cut, {json.loads(line)["id"] for line in lines[:3]})
    said = command("sweep", "grid.yaml")
    assert said.status == 0
    assert re.findall(r"cell \d of \d, (\S+):", said.out) == ["shipped-rays", "own-rays"]
    after = made_at()
    assert [cell for cell in CELLS if after[cell] == before[cell]] == ["shipped-square", "own-square"]
    assert summary_of("shipped-rays")["counts"]["images"] == 4
    assert summary_of("shipped-rays")["run"]["attempts"] == 2
    assert (cut / "records.jsonl").read_text().splitlines() == lines


@pytest.mark.slow
def test_a_cell_of_older_code_is_not_gone_on_with(command, swept):
    cut = Path("runs/grid/shipped-rays")
    (cut / "summary.json").unlink()
    identity = json.loads((cut / "fingerprint.json").read_text())
    (cut / "fingerprint.json").write_text(json.dumps({**identity, "code of rfdlight": "older"}))
    said = command("sweep", "grid.yaml")
    assert said.status == 0
    assert "two experiments would be mixed: code of rfdlight is " in said.out
    assert ", was older; it began anew" in said.out
    assert summary_of("shipped-rays")["run"]["attempts"] == 1


def test_a_cell_that_fails_is_told_and_the_others_go_on(command):
    Path("grid.yaml").write_text(GRID.replace("    rays: {attack: rays}\n", ""))
    Path("faulty_victim.py").write_text(VICTIM.replace("FAILS = False", "FAILS = True"))
    said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert "own-square failed: the victim raised RuntimeError: no memory" in said.out
    assert "1 of 2 cells failed: own-square" in said.out
    assert summary_of("shipped-square")["run"]["complete"]


def test_a_signal_ends_the_sweep(command, monkeypatch):
    write = Evaluation.on_record

    def write_and_signal(self, record):
        write(self, record)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "on_record", write_and_signal)
        said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert said.out.endswith("stopped; the same command goes on from here\n")
    assert not Path("runs/grid/shipped-rays").exists()


@pytest.mark.slow
def test_ctrl_c_before_the_attack_of_a_cell_ends_the_sweep_too(command, monkeypatch):
    def interrupted(self, stage):
        raise KeyboardInterrupt

    monkeypatch.setattr(AttackEvaluation, "setup", interrupted)
    said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert said.out.endswith("stopped; the same command goes on from here\n")
    assert "cell 2 of 4" not in said.out


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


@pytest.mark.slow
def test_a_cell_in_which_an_image_fails_is_told_and_reported_and_not_run_again(command):
    Path("grid.yaml").write_text(GRID.replace("    shipped: {}\n", "").replace("    square: {attack: square}\n", ""))
    Path("faulty_victim.py").write_text(VICTIM + FAILING)
    said = command("sweep", "grid.yaml")
    assert said.status == 1
    assert "own-rays failed: 1 of 4 images failed and are in no number; summary.json says why" in said.out
    assert "1 of 1 cells failed: own-rays" in said.out
    assert "own-rays: FAILED: 1 of 4 images" in Path("runs/grid/report-grid/report.md").read_text()
    before = made_at(["own-rays"])
    assert command("sweep", "grid.yaml").status == 0
    assert made_at(["own-rays"]) == before


@pytest.mark.slow
def test_fewer_images_make_an_experiment_of_their_own(command):
    common = "common: {model: {budget: 2, batch_size: 8}, data: {class_path: digits, init_args: {num_images: 9}}}"
    Path("grid.yaml").write_text(f"{common}\naxes: {{a: {{x: {{attack: square}}}}}}")
    assert command("sweep", "grid.yaml", "--num_images", "2").status == 0
    assert json.loads(Path("runs/grid-2/x/summary.json").read_text())["counts"]["images"] == 2
    assert json.loads(Path("runs/grid-2/x/summary.json").read_text())["run"]["batch_size"] == 1
    assert Path("runs/grid-2/report-grid-2/report.md").is_file()

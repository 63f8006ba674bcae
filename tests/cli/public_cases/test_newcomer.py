"""The mistakes of a first day: a victim on other data, labels and pixels not as in its training, numbers out of range.

After reports of accuracy at chance level: https://github.com/keras-team/keras/issues/10083 (the order of the classes),
https://github.com/open-mmlab/mmpretrain/issues/11 (labels shifted by one) and
https://github.com/fra31/auto-attack/issues/46 (normalisation).
"""

import json
import sys
from pathlib import Path

import pytest
from harness import others_slow

from rfdlight.cli.command_line import expand
from rfdlight.core.chance import is_chance
from rfdlight.data import CIFAR10, Digits
from rfdlight.victims.card import weights_path
from rfdlight.victims.resolve import card_path

VICTIMS = """
import torch
from torch import nn
from nearest_mean import NearestMean

class Plus(NearestMean):
    def forward(self, x):
        return super().forward(x).roll(1, 1)

class ScaledTwice(NearestMean):
    def forward(self, x):
        return super().forward(x / 255)

class Untrained(NearestMean):
    def __init__(self):
        super().__init__()
        nn.init.normal_(self.distances.weight, generator=torch.Generator().manual_seed(1))
"""
TEST = "test --attack square --data.num_images 20 --model.budget 2 --model.sanity_checks false --run run"


@pytest.fixture(autouse=True)
def victims(nearest_mean, elsewhere: Path):
    (elsewhere / "first_day.py").write_text(VICTIMS)
    yield
    sys.modules.pop("first_day", None)


@pytest.fixture
def own_card(elsewhere: Path) -> str:
    """The shipped victim of the digits, as if it had been trained on data of a user's own."""
    shipped = card_path("resnet8-digits")
    card = json.loads(shipped.read_text()) | {"data": "mine"}
    (elsewhere / "own.json").write_text(json.dumps(card))
    (elsewhere / "own.safetensors").write_bytes(weights_path(shipped).read_bytes())
    return "own.json"


def clean_accuracy_check() -> dict:
    audit = json.loads(Path("run/summary.json").read_text())["consistency_checks"]
    return next(finding for finding in audit if finding["check"] == "clean accuracy")


@pytest.mark.parametrize(
    "victim",
    [
        ("-c", "victim.yaml"),
        pytest.param(("--model.victim", "resnet20-cifar10"), marks=pytest.mark.slow),
        pytest.param(
            ("--model.victim", "resnet8-digits", "--data.seed", "3", "--model.victim", "resnet20-at-cifar10"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_data_that_are_not_named_are_those_of_the_card(built, victim):
    Path("victim.yaml").write_text("model: {victim: resnet20-cifar10}\ndata: {init_args: {num_images: 7}}\n")
    assert type(built("test", "--attack", "square", *victim).datamodule) is CIFAR10


@pytest.mark.parametrize(
    "line", [(), ("--model.victim", "resnet8-digits"), ("--model.victim", "first_day.Plus"), ("--data", "digits")]
)
def test_without_a_card_of_other_data_the_default_stays(built, line):
    assert type(built("test", "--attack", "square", *line).datamodule) is Digits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["calibrate", "recommend", "analyze", "scales"])
def test_every_command_with_a_victim_takes_the_data_of_its_card(name):
    line, notice = expand([name, "resnet20-cifar10", "--seed", "1"])
    assert "--data=rfdlight.data.cifar10.CIFAR10" in line
    assert "cifar10" in notice
    assert "--data" in notice
    named, silent = expand([name, "--data", "digits", "resnet20-cifar10"])
    assert not any("CIFAR10" in arg for arg in named)
    assert silent is None


def test_data_of_the_card_that_cannot_be_had_are_one_line(command):
    said = command(*TEST.split(), "--model.victim", "resnet20-cifar10")
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert "--data.root" in said.err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "line",
    others_slow(
        [
            f"{TEST} --data digits --model.victim resnet20-cifar10",
            "calibrate resnet20-cifar10 --data digits --defense input_noise",
            "analyze resnet20-cifar10 --data digits --output run",
            "recommend resnet20-cifar10 --data digits --output run.yaml",
            "scales resnet20-cifar10 --data digits",
        ],
        0,
        1,
    ),
)
def test_a_victim_of_another_shipped_data_set_is_refused_and_nothing_is_left(command, elsewhere, line):
    before = set(elsewhere.iterdir())
    said = command(*line.split())
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert "--data cifar10" in said.err
    assert {path for path in elsewhere.iterdir() if path.name != "__pycache__"} == before


def test_a_sweep_refuses_such_a_cell_before_the_first_runs(command):
    Path("grid.yaml").write_text("axes: {v: {a: {}, b: {data: digits, model: {victim: resnet20-cifar10}}}}\n"
                                 "common: {attack: square}\n")  # fmt: skip
    said = command("sweep", "grid.yaml")
    assert said.status == 2
    assert said.err.startswith("rfdlight: cell b: ")
    assert "--data cifar10" in said.err
    assert not Path("runs").exists()


def test_a_victim_of_a_users_own_data_is_attacked_with_a_caution_and_the_audit_says_why(command, own_card):
    said = command(*TEST.replace("40", "4").split(), "--data", "digits", "--model.victim", own_card)
    assert said.status == 0
    assert "warning  the victim was trained on mine, the data are digits" in said.out.replace("\n", " ")
    assert clean_accuracy_check()["state"] == "skip"


def test_a_victim_of_a_users_own_data_needs_the_data_named(command, own_card):
    said = command(*TEST.split(), "--model.victim", own_card)
    assert said.status == 2
    assert said.err.startswith("rfdlight: --data: needed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "cause"),
    [
        ("Plus", "labels shifted by one"),
        ("ScaledTwice", "pixels scaled twice"),
        ("Untrained", "random weights"),
    ],
)
def test_accuracy_at_chance_level_is_stated_with_its_likely_cause_before_the_attack(command, victim, cause):
    said = command(*TEST.split(), "--model.victim", f"first_day.{victim}")
    assert said.status == 0
    card, _, table = said.out.partition("robust accuracy (Definition 1)")
    assert table
    caution = " ".join(card.partition("warning")[2].split())
    assert "clean images are classified correctly" in caution
    assert cause in caution
    assert clean_accuracy_check()["state"] == "warn"
    assert cause in clean_accuracy_check()["found"]


def test_a_victim_above_chance_has_no_caution(command):
    said = command(*TEST.split(), "--model.victim", "nearest_mean.NearestMean")
    assert "warning" not in said.out
    assert clean_accuracy_check()["state"] == "skip"


@pytest.mark.slow
def test_a_calibration_states_accuracy_at_chance_level_too(command):
    line = "calibrate first_day.Plus --data digits --defense input_noise --tolerance 0.01 --target_drop 0.5"
    said = command(*line.split())
    assert "warning: " in said.out
    assert "labels shifted by one" in " ".join(said.out.split())


@pytest.mark.parametrize(
    ("right", "total", "classes", "expected"),
    [
        (3, 30, 10, True), (0, 64, 1000, True), (50, 100, 2, True),
        (30, 30, 10, False), (8, 30, 10, False), (1, 1, 10, False), (0, 1, 10, False), (2, 64, 1000, False),
        (8, 10, 2, False), (0, 0, 10, False),
    ],
)  # fmt: skip
def test_chance_is_told_from_few_images_and_few_classes(right, total, classes, expected):
    assert is_chance(right, total, classes) is expected


HUGE = ("100000000000000000000", "-100000000000000000000")


def test_a_forward_pass_of_a_million_million_rows_is_refused(command):
    said = command(*TEST.split(), "--model.batch_size", "1000000000000")
    assert said.status == 2
    assert said.err.startswith("rfdlight: model.batch_size must be at most 65,536")


@pytest.mark.slow
def test_a_budget_that_nobody_can_pay_is_no_error_where_no_image_is_right(command):
    said = command(*TEST.replace("40", "2").split(), "--model.budget", str(2**62), "--model.victim", "first_day.Plus")
    assert (said.status, said.err) == (0, "")


FIT = (
    "fit --model.network resnet8 --data.batch_size 16 --trainer.limit_train_batches 1 --trainer.accelerator cpu "
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", ["--trainer.max_epochs -1", "--trainer.max_epochs 1 --model.layer_decay 0.5", "--data.batch_size 2000"]
)
@pytest.mark.parametrize("there", [True, False])
def test_a_refused_training_leaves_nothing_and_the_corrected_one_begins(command, elsewhere, wrong, there):
    if there:
        Path("deep/run").mkdir(parents=True)
    said = command(*FIT.split(), *wrong.split(), "--run", "deep/run")
    assert said.status == 2
    assert Path("deep").exists() is there
    assert not list(elsewhere.glob("deep/run/*"))


@pytest.mark.slow
def test_a_finished_training_is_not_gone_on_with_beyond_its_schedule(command, monkeypatch):
    """After https://github.com/Lightning-AI/pytorch-lightning/issues/2823."""
    monkeypatch.setattr("rfdlight.cli.main.RFDLightCLI.after_fit", lambda self: None)
    assert command(*FIT.split(), "--trainer.max_epochs", "1", "--run", "first").status == 0
    checkpoint = next(Path("first/checkpoints").glob("*.ckpt"))
    said = command(*FIT.split(), "--trainer.max_epochs", "2", "--run", "second", "--ckpt_path", str(checkpoint))
    assert said.status == 2
    assert "rfdlight: ckpt_path must be of a training of 2 steps, got one of 1" in said.err
    assert "--model.checkpoint" in said.err
    assert not Path("second").exists()
    assert command(*FIT.split(), "--trainer.max_epochs", "2", "--run", "second").status == 0

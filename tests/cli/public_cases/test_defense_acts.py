"""Noise at layers that a forward pass never calls, calls many times, or gives other rows than images."""

import json
import sys
from pathlib import Path

import pytest
from harness import others_slow

VICTIMS = """
import torch
from torch import nn
from nearest_mean import NearestMean

class Reused(NearestMean):
    def forward(self, x):
        for _ in range(16):
            x = self.spare(x)
        return super().forward(x)

class Attention(NearestMean):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(10, 1, batch_first=True)

    def forward(self, x):
        y = super().forward(x)[:, None]
        return (y + 0.1 * self.attention(y, y, y, need_weights=False)[0])[:, 0]

class Bypassed(NearestMean):
    def forward(self, x):
        return super().forward(self.spare.forward(x))

class Pair(nn.Module):
    def forward(self, x):
        return x, x

class Paired(NearestMean):
    def __init__(self):
        super().__init__()
        self.spare = Pair()

    def forward(self, x):
        return super().forward(self.spare(x)[0])

class Rounded(NearestMean):
    def forward(self, x):
        return super().forward(self.spare((255 * x).round().long()) / 255)

class Windows(NearestMean):
    def __init__(self):
        super().__init__()
        self.images = nn.Identity()

    def forward(self, x):
        x = self.images(x)
        rows = x.reshape(-1, 3, 2, 16, 2, 16).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, 16, 16)
        rows = self.spare(rows).reshape(len(x), 2, 2, 3, 16, 16)
        return super().forward(rows.permute(0, 3, 1, 4, 2, 5).reshape(x.shape))

def growing(clock):
    return (clock / 5).clamp_max(1.0)
"""
LINE = (
    "test --attack square --attack.eps 0.01 --data digits --data.num_images 6 --model.batch_size 8 --model.budget 6 "
    "--model.final_evaluations 40 --model.keep_images 0 --model.sanity_checks false "
    "--defense feature_noise --defense.sigma 0.5"
)


@pytest.fixture(autouse=True)
def victims(nearest_mean, elsewhere):
    (elsewhere / "acting.py").write_text(VICTIMS)
    yield
    sys.modules.pop("acting", None)


@pytest.fixture
def attacked(command):
    """Attack a victim behind noise at some of its layers."""

    def run(victim, layers, *more, run="run"):
        victim = f"--model.victim=acting.{victim}"
        return command(*LINE.split(), victim, "--defense.layers", layers, "--run", run, *more)

    return run


def defense_of(run="run"):
    return json.loads(Path(run, "summary.json").read_text())["run"]["defense"]


def test_a_layer_that_no_forward_pass_calls_is_refused_by_name(attacked):
    """Report: https://github.com/pytorch/pytorch/issues/78109"""
    said = attacked("Attention", "[distances,attention.out_proj]", "--defense.sigma", "[0.05,5.0]")
    assert said.status == 2
    assert "attention.out_proj" in said.err
    assert len(said.err.splitlines()) == 1
    assert not Path("run").exists()


def test_calls_per_image_are_part_of_the_description(attacked):
    """Reports: https://github.com/openai/CLIP/pull/239 , https://github.com/ultralytics/ultralytics/issues/15757"""
    said = attacked("Reused", "spare")
    assert said.status == 0
    assert defense_of().endswith("at the output of spare, 16 calls per image at spare")
    assert "16 calls per image at spare" in " ".join(said.out.split())


def test_a_schedule_at_rows_that_are_no_images_is_refused(attacked):
    """Report: https://github.com/jacobgil/pytorch-grad-cam/issues/84"""
    said = attacked("Windows", "spare", "--defense.schedule", "acting.growing")
    assert said.status == 2
    assert "spare" in said.err
    assert "schedule" in said.err


@pytest.mark.parametrize(
    ("victim", "layer", "hint"),
    others_slow(
        [
            ("Bypassed", "spare", ".forward()"),
            ("Paired", "spare", "tuple"),
            ("Rounded", "spare", "int64"),
        ],
        0,
    ),
)
def test_noise_that_cannot_act_is_refused_in_one_line(attacked, victim, layer, hint):
    said = attacked(victim, layer)
    assert said.status == 2
    assert layer in said.err
    assert hint in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.slow
def test_a_defense_that_is_switched_off_is_not_checked(attacked):
    assert attacked("Bypassed", "spare", "--model.defended", "false").status == 0


@pytest.mark.parametrize(
    "line",
    others_slow(
        [
            "calibrate --defense feature_noise --defense.layers [distances,spare]",
            "analyze --layers [distances,spare] --num_images 2",
            "recommend --layers [distances,spare] --num_images 2",
        ],
        0,
    ),
)
def test_every_command_refuses_a_layer_whose_calls_run_no_hooks(command, line):
    name, *options = line.split()
    said = command(name, "acting.Bypassed", "--data", "digits", "--data.num_images", "500", *options)
    assert said.status == 2
    assert "the layer spare" in said.err
    assert not list(Path().glob("*.yaml"))


@pytest.mark.slow
def test_a_calibration_layer_by_layer_names_such_a_layer_and_goes_on(command):
    line = "calibrate acting.Bypassed --data digits --data.num_images 500 --defense feature_noise --sweep layers "
    line += "--defense.layers [distances,spare] --target_drop 0.2 --tolerance 0.1"
    said = command(*line.split())
    assert said.status == 0
    assert "spare: the forward pass never calls the layer spare" in said.out
    assert [path.name for path in Path().glob("*.yaml")] == ["calibrated-distances.yaml"]


def test_a_sweep_refuses_such_a_layer_before_its_first_cell(command):
    Path("grid.yaml").write_text("""
common:
  attack: square
  data: {class_path: digits, init_args: {num_images: 4}}
  defense: {class_path: feature_noise, init_args: {layers: spare}}
  model: {budget: 4, batch_size: 4, sanity_checks: false}
axes:
  victim: {fine: {model: {victim: acting.Reused}}, dead: {model: {victim: acting.Bypassed}}}
""")
    said = command("sweep", "grid.yaml")
    assert said.status == 2
    assert "cell dead" in said.err
    assert "the layer spare" in said.err
    assert not Path("runs").exists()

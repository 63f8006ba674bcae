"""Victims of unusual make: quantized, TorchScript, without values, of one batch size, for contiguous memory alone."""

import json
import sys
from pathlib import Path

import pytest
from harness import others_slow

from rfdlight.victims.digest import weights_digest
from rfdlight.victims.import_path import import_victim

VICTIMS = """
import copy
import io
import torch
from torch import nn
from rfdlight.data import Digits

class Base(nn.Module):
    '''The nearest mean of a class.'''

    def __init__(self):
        super().__init__()
        train = Digits().images("train")
        x = train.pixels.float().div(255).flatten(1)
        means = torch.stack([x[train.labels == label].mean(0) for label in range(10)])
        self.flat, self.distances = nn.Flatten(), nn.Linear(3072, 10)
        self.distances.weight.data, self.distances.bias.data = means, -means.square().sum(1) / 2

    def forward(self, x):
        return self.distances(self.flat(x))

def quantized():
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), {nn.Linear})

def reloaded(script):
    stored = io.BytesIO()
    torch.jit.save(script, stored)
    stored.seek(0)
    return torch.jit.load(stored)

def traced():
    return reloaded(torch.jit.trace(Base(), torch.zeros(2, 3, 32, 32)))

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.held = {"weights": [torch.randn(3072, 10)]}

    def forward(self, x):
        return x.flatten(1) @ self.held["weights"][0]

class Unsaved(Plain):
    def __init__(self):
        nn.Module.__init__(self)
        self.register_buffer("w", torch.randn(3072, 10), persistent=False)

def sparse():
    victim = Base()
    victim.register_buffer("adjacency", torch.eye(3).to_sparse())
    return victim

class Squeezing(Base):
    def forward(self, x):
        return super().forward(x).squeeze()

class Viewing(Base):
    def __init__(self):
        super().__init__()
        self.act, self.conv = nn.Identity(), nn.Conv2d(3, 3, 1, bias=False)
        self.conv.weight.data = torch.eye(3)[:, :, None, None]

    def forward(self, x):
        x = self.act(self.conv(x))
        return super().forward(x.view(x.size(0), -1))

class ViewingAfterAChange(Viewing):
    '''It changes its input before it fails in channels-last memory.'''

    def forward(self, x):
        return super().forward(x.mul_(2).div_(2).add_(0))

class Six(Base):
    def forward(self, x):
        return super().forward(x.reshape(6, 3, 32, 32))

class Wide(Base):
    def forward(self, x):
        return super().forward(x)[:, : 10 if len(x) < 6 else 9]

class Detector(Base):
    '''It answers one row less for a whole batch.'''

    def forward(self, x):
        return super().forward(x)[: 5]

class Auxiliary(Base):
    def forward(self, x):
        z = super().forward(x)
        return {"loss": z.sum(), "features": x, "logits": z}

ready = Base()
"""
TEST = (
    "test --attack square --data.num_images 4 --model.budget 3 --model.batch_size 6 --model.final_evaluations 40 "
    "--model.keep_images 0 --model.sanity_checks false --run r "
)
OF_BASE = 0.75
"""Clean accuracy of `Base` on the four images."""
SHORT = "--target_drop 0.3 --tolerance 0.2 --max_draws 4"


@pytest.fixture(autouse=True)
def victims(elsewhere):
    Path("odd_nets.py").write_text(VICTIMS)
    sys.path.insert(0, str(elsewhere))
    yield
    sys.modules.pop("odd_nets", None)


def clean() -> float:
    return json.loads(Path("r/summary.json").read_text())["mean_logits"]["clean"]["value"]


@pytest.mark.parametrize("name", ["quantized", "Plain", "Unsaved"])
def test_two_networks_of_other_weights_have_other_digests(name):
    """https://github.com/pytorch/pytorch/issues/31468, https://github.com/pytorch/pytorch/issues/40693"""
    first, second = (import_victim(f"odd_nets.{name}") for _ in range(2))
    digest = weights_digest(first)
    assert digest != weights_digest(second)
    assert digest == weights_digest(first)
    assert name == "Plain" or weights_digest(first, attributes=False) != weights_digest(second, attributes=False)


@pytest.mark.slow
def test_a_run_of_a_network_whose_weights_are_no_parameters_is_not_gone_on_with_by_another(command):
    """https://github.com/pytorch/pytorch/issues/31468"""
    assert command(*TEST.split(), "--model.victim", "odd_nets.Plain").status == 0
    said = command("test", "--resume", "r")
    assert (said.status, said.err.count("\n")) == (3, 1)
    assert "victim is " in said.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["traced", "sparse", "Squeezing", "Viewing", "Six", "Auxiliary"])
def test_a_victim_of_unusual_make_is_attacked(command, name):
    """https://github.com/sksq96/pytorch-summary/issues/103, https://github.com/shap/shap/issues/3532,
    https://github.com/galilai-group/stable-pretraining/issues/189, https://github.com/pytorch/pytorch/issues/38472,
    https://github.com/huggingface/pytorch-image-models/issues/1171, https://github.com/pytorch/benchmark/pull/1367
    """
    said = command(*TEST.split(), "--model.victim", f"odd_nets.{name}")
    assert (said.status, said.err) == (0, "")
    assert clean() == OF_BASE
    assert ("channels_last" in said.out) == (name == "Viewing")
    assert ("'logits'" in said.out) == (name == "Auxiliary")


@pytest.mark.slow
def test_a_victim_that_squeezes_is_attacked_one_row_at_a_time(command):
    """https://github.com/layumi/Person_reID_baseline_pytorch/issues/77"""
    said = command(*TEST.split(), "--model.batch_size", "1", "--model.victim", "odd_nets.Squeezing")
    assert (said.status, said.err) == (0, "")
    assert clean() == OF_BASE


@pytest.mark.slow
def test_a_victim_that_changes_its_input_fails_over_to_contiguous_memory_with_the_input_it_was_given(command):
    said = command(*TEST.split(), "--model.victim", "odd_nets.ViewingAfterAChange")
    assert (said.status, said.err) == (0, "")
    assert clean() == OF_BASE


@pytest.mark.parametrize(
    ("name", "hints"),
    others_slow(
        [
            ("Six --model.batch_size 4", ["does not take images", "shape"]),
            ("Wide", ["(6, 10)", "(6, 9)"]),
            ("Detector", ["(6, 10)", "(5, 10)"]),
        ],
        2,
    ),
)
def test_a_victim_that_cannot_be_attacked_is_one_line(command, name, hints):
    """https://github.com/huggingface/transformers/issues/35057, https://github.com/pytorch/pytorch/issues/38472"""
    said = command(*TEST.split(), *f"--model.victim odd_nets.{name}".split())
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert all(hint in said.err for hint in hints), said.err
    assert not Path("r").exists()


@pytest.mark.slow
def test_a_victim_that_fails_in_channels_last_memory_is_calibrated(command):
    """https://github.com/huggingface/pytorch-image-models/issues/1171"""
    line = "calibrate odd_nets.Viewing --data digits --defense feature_noise --defense.layers act --defense.sigma 0.3"
    said = command(*f"{line} {SHORT} --output c.yaml".split())
    assert (said.status, said.err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("command_line", ["calibrate {} --defense input_noise --output c.yaml " + SHORT, "analyze {}"])
def test_a_victim_of_one_batch_size_is_one_line_where_passes_vary(command, command_line):
    said = command(*command_line.format("odd_nets.Six --data digits").split())
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "does not take images" in said.err


def test_a_file_and_the_name_in_it_are_a_victim_and_may_import_their_neighbours(command):
    Path("sub").mkdir()
    Path("sub/helper.py").write_text("from torch import nn\nlinear = lambda: nn.Linear(3072, 10)\n")
    Path("sub/code.py").write_text(
        "import helper\nfrom torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), helper.linear())\n"
    )
    said = command(*TEST.split(), "--model.victim", "sub/code.py:net")
    sys.modules.pop("helper", None)
    assert (said.status, said.err) == (0, "")
    assert "code of victim_file_code" in Path("r/fingerprint.json").read_text()


@pytest.mark.parametrize(
    ("spec", "hint"),
    others_slow(
        [
            ("missing.py:net", "no file missing.py"),
            ("odd_nets.py:bass", "did you mean"),
            ("weights.pth", "--model.checkpoint"),
            ("net.onnx", "my_file.py:my_function"),
            ("some/model", "--model.checkpoint"),
        ],
        1,
        2,
    ),
)
def test_what_is_no_victim_by_itself_is_one_line_with_the_way_to_use_it(command, spec, hint):
    said = command(*TEST.split(), "--model.victim", spec)
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert hint in said.err


@pytest.mark.parametrize("spec", ["odd_nets.py:ready", "timm:resnet18"])
def test_scales_need_a_card(command, spec):
    said = command("scales", spec, "--data", "digits")
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "card" in said.err
    assert "feature_scales" in said.err

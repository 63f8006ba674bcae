"""`rfdlight layers` and `rfdlight scales`."""

import json
import shlex
from pathlib import Path

import pytest
import timm
import torch
from harness import others_slow
from safetensors import safe_open
from torch import nn

from rfdlight.cli.layers import layers, output_shapes
from rfdlight.data.digits import Digits
from rfdlight.defenses import FeatureNoise
from rfdlight.defenses.insertion_points import default_points
from rfdlight.errors import UserError
from rfdlight.victims import Victim
from rfdlight.victims.card import save_victim


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")


def rows(out: str) -> dict[str, list[str]]:
    """The table's lines by path: type, output and mark, cells being at least two blanks apart."""
    found = {}
    for line in out.splitlines()[3:]:
        cells = [cell.strip() for cell in line.split("  ") if cell.strip()]
        if len(cells) >= 3:
            found[cells[0]] = cells[1:]
    return found


def test_the_layers_of_a_shipped_victim(command):
    said = command("layers", "resnet20-cifar10")
    assert (said.status, said.err) == (0, "")
    lines = said.out.rstrip().splitlines()
    assert lines[0] == "resnet20-cifar10, one image of 3 x 32 x 32"
    assert lines[-1] == "default: --defense.layers '[layer3]'"
    table = rows(said.out)
    assert table["layer2"] == ["Sequential", "32 x 16 x 16"]
    assert table["layer3"] == ["Sequential", "64 x 8 x 8", "0: after"]
    assert table["fc"] == ["Linear", "10"]
    assert list(table) == [
        "conv1", "bn1", *(f"layer{i}{block}" for i in (1, 2, 3) for block in ("", ".0", ".1", ".2")), "fc"
    ]  # fmt: skip


def test_depth_limits_the_nesting_but_never_hides_a_default_point(command):
    assert list(rows(command("layers", "resnet8-digits", "--depth", "1").out)) == [
        "conv1", "bn1", "layer1", "layer2", "layer3", "fc"
    ]  # fmt: skip
    assert "layer1.0.conv2" in rows(command("layers", "resnet8-digits", "--depth", "3").out)
    table = rows(command("layers", "timm:vgg11", "--depth", "1").out)
    convolutions = [f"features.{number}" for number in (0, 3, 6, 8, 11, 13, 16, 18)]
    assert list(table) == ["features", *convolutions, "pre_logits", "head"]
    assert [table[name][2] for name in convolutions] == [f"{index}: before" for index in range(8)]


@pytest.mark.parametrize("name", others_slow(["resnet8", "test_vit"], 0))
def test_the_closing_line_is_the_default_in_the_form_of_options(capsys, built, name):
    layers(f"timm:{name}", image_size=160)
    closing = capsys.readouterr().out.rstrip().splitlines()[-1]
    options = shlex.split(closing.removeprefix("default: "))
    cli = built("test", "--attack", "rays", "--defense", "feature_noise", *options)
    (defense,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, FeatureNoise))
    network = timm.create_model(name, num_classes=10)
    assert defense.insertion_points(network) == default_points(network) != []


def test_a_network_without_default_says_so(command):
    said = command("layers", "timm:convnext_atto", "--depth", "1")
    assert said.out.rstrip().splitlines()[-1] == "no default: choose layers with --defense.layers"
    assert not any("before" in line or "after" in line for line in said.out.splitlines())


def test_the_image_size_can_be_chosen(command):
    out = command("layers", "timm:test_vit", "--image_size", "64", "--depth", "1").out
    assert out.startswith("timm:test_vit, one image of 3 x 64 x 64\n")
    assert rows(out)["pos_drop"] == ["Dropout", "17 x 64"]
    assert rows(command("layers", "timm:resnet18", "--image_size", "64").out)["maxpool"][1] == "64 x 16 x 16"
    assert rows(command("layers", "timm:resnet8", "--image_size", "16").out)["layer3"][1] == "64 x 4 x 4"


def test_odd_outputs_do_not_disturb_the_table():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.nothing, self.named, self.unused = (nn.Identity() for _ in range(4))

        def forward(self, x):
            self.pair((x, [x[:, 0], None]))
            self.nothing(None)
            self.named({"a": x})
            return x.sum()

    odd = Odd().eval()
    shapes = output_shapes(odd, (3, 4, 5), "odd", odd)
    assert shapes == {"pair": "3 x 4 x 5, 4 x 5, NoneType", "nothing": "NoneType", "named": "dict", "": ""}


def test_the_modules_keep_no_hook_also_after_a_failure():
    network = nn.Sequential(nn.Conv2d(3, 1, 5))
    with pytest.raises(UserError, match=r"^net does not take images of 3 x 4 x 4: .+"):
        output_shapes(network, (3, 4, 4), "net", network)
    assert not network[0]._forward_hooks


def test_weights_are_neither_made_nor_loaded(command, monkeypatch):
    made = []
    monkeypatch.setattr(nn.init, "kaiming_normal_", lambda tensor, *_, **__: made.append(tensor.device.type))
    assert command("layers", "timm:resnet18").status == 0
    assert set(made) == {"meta"}


@pytest.fixture
def card(elsewhere) -> Path:
    """A small victim of one's own, with random weights."""
    torch.manual_seed(0)
    save_victim(
        Victim(timm.create_model("resnet8", num_classes=10), Digits.mean, Digits.std),
        Path("tiny.json"),
        network="resnet8", num_classes=10, image_shape=(3, 32, 32), data="digits", command="", seed=0,
        clean_correct=1, clean_total=2, versions={},
    )  # fmt: skip
    return Path("tiny.json")


def stored() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open("tiny.scales.safetensors", framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def test_scales_are_measured_stored_and_kept_when_others_are_added(card, command):
    said = command("scales", "tiny.json", "--data", "digits", "--num_images", "30")
    assert (said.status, said.err) == (0, "")
    assert said.out.splitlines()[-1] == "tiny.scales.safetensors: measured on 30 training images of digits"
    first, _ = stored()
    assert first.keys() == {"layer3:output"}
    said = command("scales", "tiny.json", "--data=digits", "--num_images=40", "--layers", "layer1", "--at", "input")
    both, facts = stored()
    assert both.keys() == {"layer1:input", "layer3:output"}
    assert facts["num_images"] == "40"
    assert not torch.equal(both["layer3:output"], first["layer3:output"]), "it must be measured on the same images"
    assert said.out.startswith("layer1:input: 16 features, standard deviations 0.")


@pytest.mark.slow
def test_scales_of_other_weights_are_replaced(card, command):
    assert command("scales", "tiny.json", "--data", "digits", "--num_images", "5", "--layers", "layer1").status == 0
    content = json.loads(card.read_text())
    weights = Path("tiny.safetensors")
    network = timm.create_model("resnet8", num_classes=10)
    facts = {key: content[key] for key in ("network", "num_classes", "data", "command", "seed", "versions")}
    facts |= {"clean_correct": 1, "clean_total": 2, "image_shape": (3, 32, 32)}
    save_victim(Victim(network, Digits.mean, Digits.std), card, **facts)
    assert command("scales", "tiny.json", "--data", "digits", "--num_images", "5").status == 0
    scales, facts = stored()
    assert scales.keys() == {"layer3:output"}
    assert facts["weights_sha256"] == json.loads(card.read_text())["sha256"]
    assert weights.exists()


def test_a_network_without_default_needs_layers_to_be_scaled(card, command):
    network = timm.create_model("test_convnext", num_classes=10)
    facts = {"network": "test_convnext", "num_classes": 10, "image_shape": (3, 32, 32), "data": "digits"}
    facts |= {"command": "", "seed": 0, "clean_correct": 1, "clean_total": 2, "versions": {}}
    save_victim(Victim(network, Digits.mean, Digits.std), Path("convnext.json"), **facts)
    said = command("scales", "convnext.json", "--data", "digits")
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert said.err.startswith("rfdlight: --layers: expected layers, got none; test_convnext")


@pytest.mark.slow
def test_scaled_noise_runs_on_a_shipped_victim_and_the_card_says_so(command):
    said = command(
        "test", "--attack", "random_noise", "--data.num_images", "4", "--model.budget", "3", "--model.batch_size", "4",
        "--model.final_evaluations", "40", "--defense", "feature_noise", "--defense.scale", "feature",
        "--defense.distribution", "laplace", "--defense.sigma", "0.2", "--run", "scaled",
    )  # fmt: skip
    assert (said.status, said.err) == (0, "")
    described = json.loads(Path("scaled/summary.json").read_text())["run"]["defense"]
    assert described == (
        "FeatureNoise sigma 0.2 at the output of layer3, laplace noise, in units of each feature's standard deviation"
    )
    said = command(
        "test", "--attack", "random_noise", "--defense", "feature_noise", "--defense.scale", "feature",
        "--defense.layers", "conv1",
    )  # fmt: skip
    assert (said.status, said.err) == (
        2,
        "rfdlight: defense.scale feature needs the stored scales of conv1:output; "
        "for a victim with a card, measure them: rfdlight scales VICTIM --data NAME --layers '[conv1]' --at output\n",
    )


def test_the_page_on_defenses_shows_the_table_as_it_is(command):
    page = Path(__file__).parents[2] / "docs/reference/defenses.md"
    said = command("layers", "resnet20-cifar10")
    shown = "\n".join(line.rstrip() for line in said.out.rstrip().splitlines())
    assert f"```text\n{shown}\n```" in page.read_text()

"""`rfdlight calibrate`: what it writes is what `rfdlight test` takes, and true on draws that it has not seen."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from rfdlight.analysis.clean_cost import CleanCostMeter, cost_of
from rfdlight.data import Digits
from rfdlight.defenses import FeatureNoise
from rfdlight.victims.resolve import resolve_victim

LINE = "calibrate nearest_mean.NearestMean --data digits --defense feature_noise --defense.layers distances "


@pytest.fixture(autouse=True)
def victim(nearest_mean):
    """The victim of these lines."""


def drop_of(defense: FeatureNoise, draws: int = 200):
    """The cost by other draws than those of the command."""
    data = Digits()
    victim, _, _ = resolve_victim("nearest_mean.NearestMean", None, data)
    meter = CleanCostMeter(victim, data.held_out(), seed=1)
    return meter, cost_of(meter.undefended, meter.times_right(defense, 0, draws), draws)


def defended_by(command, file: str) -> str:
    """What a short evaluation says of the defense in a file."""
    line = "test --attack square --model.victim nearest_mean.NearestMean --data.num_images 2 --model.budget 1 --run"
    assert command(*line.split(), f"run-{file}", "--defense", file).status == 0
    return json.loads(Path(f"run-{file}", "summary.json").read_text())["run"]["defense"]


def test_the_file_holds_the_defense_and_what_was_measured(command):
    said = command(*(LINE + "--tolerance 0.004 --max_draws 512").split())
    assert (said.status, said.err) == (0, "")
    written = yaml.safe_load(Path("calibrated.yaml").read_text())
    facts = written["calibration"]
    sigma = written["init_args"]["sigma"]
    assert f"calibrated.yaml: FeatureNoise sigma {sigma:g} at the output of distances\n" in said.out

    meter, cost = drop_of(FeatureNoise(sigma, "distances"))
    assert abs(cost.drop - 0.02) < 0.004 + 4 * cost.error
    low, high = facts["interval_over_draws"]
    assert 0.016 <= low < facts["drop"] < high <= 0.024
    assert facts["interval_over_images"][0] < low < high < facts["interval_over_images"][1]
    assert facts["clean_accuracy"] == pytest.approx(meter.clean_accuracy)
    assert (facts["images"], facts["data"], facts["target_drop"]) == (399, "digits", 0.02)
    assert len(facts["loaded_weights_sha256"]) == len(facts["image_ids_sha256"]) == 64

    assert defended_by(command, "calibrated.yaml") == f"FeatureNoise sigma {sigma:g} at the output of distances"


def test_the_same_command_finds_the_same_and_never_overwrites(command):
    line = LINE + "--tolerance 0.01 --target_drop 0.05 --output "
    assert command(*(line + "one.yaml").split()).status == 0
    assert command(*(line + "two.yaml").split()).status == 0
    assert Path("one.yaml").read_text() == Path("two.yaml").read_text()
    said = command(*(line + "one.yaml").split())
    assert said.status == 2
    assert said.err.startswith("rfdlight: --output: expected a new file, got one.yaml")


def test_several_sigmas_keep_their_ratios(command):
    line = (
        LINE.replace("distances", "[pixels,distances]")
        + "--defense.sigma [0.1,1.0] --target_drop 0.05 --tolerance 0.01"
    )
    assert command(*line.split()).status == 0
    first, second = yaml.safe_load(Path("calibrated.yaml").read_text())["init_args"]["sigma"]
    assert second == pytest.approx(10 * first, rel=1e-4)


def test_a_sweep_calibrates_every_layer_by_itself(command):
    line = LINE.replace("distances", "*") + "--sweep layers --target_drop 0.05 --tolerance 0.01"
    said = command(*line.split())
    assert (said.status, said.err) == (0, "")
    for layer in ("pixels", "distances"):
        written = yaml.safe_load(Path(f"calibrated-{layer}.yaml").read_text())
        assert written["init_args"]["layers"] == [layer]
        _, cost = drop_of(FeatureNoise(written["init_args"]["sigma"], layer))
        assert abs(cost.drop - 0.05) < 0.01 + 4 * cost.error
        described = defended_by(command, f"calibrated-{layer}.yaml")
        assert described == f"FeatureNoise sigma {written['init_args']['sigma']:g} at the output of {layer}"


def test_a_sweep_goes_on_after_a_layer_that_cannot_cost_so_much(command):
    line = LINE.replace("NearestMean", "WithSpare").replace("layers distances", "layers [spare,distances]")
    line += "--sweep layers --target_drop 0.05 --tolerance 0.01"
    said = command(*line.split())
    assert (said.status, said.err) == (0, "")
    assert "spare: no sigma costs as much as 5 points: 0.00 points (-0.09 to 0.09)" in said.out
    assert not Path("calibrated-spare.yaml").exists()
    assert Path("calibrated-distances.yaml").exists()


def test_the_weights_of_a_convolution_without_a_card_are_told_by_their_digest(command):
    line = LINE.replace("NearestMean", "Convolved") + "--target_drop 0.05 --tolerance 0.04"
    said = command(*line.split())
    assert (said.status, said.err) == (0, "")
    facts = yaml.safe_load(Path("calibrated.yaml").read_text())["calibration"]
    assert len(facts["loaded_weights_sha256"]) == 64
    assert "weights_sha256" not in facts


def test_the_weights_of_a_checkpoint_are_told_by_the_digest_of_its_file_as_those_of_a_card_are(
    command, elsewhere, monkeypatch
):
    monkeypatch.syspath_prepend(elsewhere)
    victim, _, _ = resolve_victim("nearest_mean.NearestMean", None, Digits())
    save_file(victim.state_dict(), "mine.safetensors")
    said = command(*LINE.split(), "--checkpoint", "mine.safetensors", "--target_drop", "0.05", "--tolerance", "0.04")
    assert (said.status, said.err) == (0, "")
    facts = yaml.safe_load(Path("calibrated.yaml").read_text())["calibration"]
    assert facts["weights_sha256"] == hashlib.sha256(Path("mine.safetensors").read_bytes()).hexdigest()
    assert f"weights sha256 {facts['weights_sha256'][:12]}" in said.out
    assert "loaded_weights_sha256" not in facts


FAILING = """
from nearest_mean import NearestMean

class Dark(NearestMean):
    def forward(self, x):
        if x.any():
            raise ValueError("too dark\\nfor me")
        return super().forward(x)

class Empty(NearestMean):
    def forward(self, x):
        return super().forward(x) * (float("nan") if x.any() else 1)
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Dark", "the victim raised ValueError: too dark"),
        ("Empty", "the victim answered NaN or infinity; a clean accuracy needs finite scores"),
    ],
)
def test_a_victim_that_fails_is_one_line(name, told, command):
    Path("failing.py").write_text(FAILING)
    said = command(*LINE.replace("nearest_mean.NearestMean", f"failing.{name}").split())
    sys.modules.pop("failing", None)
    assert (said.status, said.err) == (2, f"rfdlight: {told}\n")


CASES = {
    "no victim": ("calibrate --data digits --defense input_noise", "victim: expected a value, got none"),
    "no defense": ("calibrate resnet8-digits --data digits", "defense: expected a value, got none"),
    "no noise": (
        "calibrate resnet8-digits --data digits --defense aaa",
        "defense: expected a subclass of Noise, got 'rfdlight.defenses.aaa.AAA'",
    ),
    "no drop": (LINE + "--target_drop 0", "target_drop: expected a number in (0, 1), got 0.0"),
    "drop in points": (LINE + "--target_drop 2", "target_drop: expected a number in (0, 1), got 2.0; 0.02 is 2 points"),
    "wide tolerance": (
        LINE + "--tolerance 0.02",
        "tolerance: expected a number in (0, target_drop), got 0.02; 0.002 is 0.2 points",
    ),
    "few draws": (LINE + "--max_draws 3", "max_draws: expected at least 4, got 3"),
    "no sigma": (LINE + "--defense.sigma 0", "defense.sigma: expected a positive number, got 0"),
    "sweep of pixels": (
        "calibrate resnet8-digits --data digits --defense input_noise --sweep layers",
        "--sweep layers: expected a defense with layers, got InputNoise",
    ),
    "sweep of several sigmas": (
        LINE + "--defense.sigma [1.0,2.0] --sweep layers",
        "--sweep layers: expected one --defense.sigma, got 2 values",
    ),
    "no yaml": (
        LINE + "--output calibrated.json",
        "--output: expected a file that ends in .yaml, got 'calibrated.json'",
    ),
    "no folder": (LINE + "--output a/b.yaml", "--output: expected a file in an existing folder, got 'a/b.yaml'"),
    "every image attacked": (
        LINE + "--data.num_images 599 --data.selection first",
        "--data.num_images: expected a number that leaves 2 test images of the data, got 599; lower it",
    ),
    "unreachable": (LINE + "--target_drop 0.99", "no sigma costs as much as 99 points: "),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_writes_nothing(name, command, elsewhere):
    line, expected = CASES[name]
    said = command(*line.split())
    assert said.status == 2
    assert said.err.startswith(f"rfdlight: {expected}"), said.err
    assert said.err.count("\n") == 1
    assert sorted(path.name for path in elsewhere.iterdir() if path.suffix in (".yaml", ".json")) == []

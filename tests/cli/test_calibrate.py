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


def drop_of(defense: FeatureNoise, draws: int = 50):
    """The cost by other draws than those of the command."""
    data = Digits()
    victim = resolve_victim("nearest_mean.NearestMean", None, data).module
    meter = CleanCostMeter(victim, data.held_out(), seed=1)
    return meter, cost_of(meter.undefended, meter.times_right(defense, 0, draws), draws)


def defended_by(command, file: str) -> str:
    """What a short evaluation says of the defense in a file."""
    line = "test --attack square --model.victim nearest_mean.NearestMean --data.num_images 2 --model.budget 1 --run"
    assert command(*line.split(), f"run-{file}", "--defense", file).status == 0
    return json.loads(Path(f"run-{file}", "summary.json").read_text())["run"]["defense"]


def test_the_file_holds_the_defense_and_what_was_measured(command):
    said = command(*(LINE + "--tolerance 0.01 --max_draws 256").split())
    assert (said.status, said.err) == (0, "")
    written = yaml.safe_load(Path("calibrated.yaml").read_text())
    facts = written["calibration"]
    sigma = written["init_args"]["sigma"]
    assert f"calibrated.yaml: FeatureNoise sigma {sigma:g} at the output of distances\n" in said.out

    meter, cost = drop_of(FeatureNoise(sigma, "distances"))
    assert abs(cost.drop - 0.02) < 0.01 + 4 * cost.error
    low, high = facts["interval_over_draws"]
    assert 0.01 <= low < facts["drop"] < high <= 0.03
    assert facts["interval_over_images"][0] < low < high < facts["interval_over_images"][1]
    assert facts["clean_accuracy"] == pytest.approx(meter.clean_accuracy)
    assert (facts["images"], facts["data"], facts["target_drop"]) == (399, "digits", 0.02)
    assert len(facts["loaded_weights_sha256"]) == len(facts["image_ids_sha256"]) == 64

    assert defended_by(command, "calibrated.yaml") == f"FeatureNoise sigma {sigma:g} at the output of distances"


@pytest.mark.slow
def test_a_sweep_calibrates_every_layer_by_itself(command):
    line = LINE.replace("NearestMean", "WithSpare").replace("layers distances", "layers [spare,pixels,distances]")
    line += "--sweep layers --target_drop 0.05 --tolerance 0.03"
    said = command(*line.split())
    assert (said.status, said.err) == (0, "")
    assert "spare: no sigma costs as much as 5 points: 0.00 points (-0.09 to 0.09)" in said.out
    assert not Path("calibrated-spare.yaml").exists()
    for layer in ("pixels", "distances"):
        written = yaml.safe_load(Path(f"calibrated-{layer}.yaml").read_text())
        assert written["init_args"]["layers"] == [layer]
        _, cost = drop_of(FeatureNoise(written["init_args"]["sigma"], layer))
        assert abs(cost.drop - 0.05) < 0.03 + 4 * cost.error
    said = command(*line.split())
    assert said.status == 2
    assert said.err.startswith("rfdlight: --output: expected a new file, got calibrated-")


@pytest.mark.slow
def test_the_weights_of_a_checkpoint_are_told_by_the_digest_of_its_file_as_those_of_a_card_are(
    command, elsewhere, monkeypatch
):
    monkeypatch.syspath_prepend(elsewhere)
    victim = resolve_victim("nearest_mean.NearestMean", None, Digits()).module
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

"""`rfdlight analyze` on a command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rfdlight.analysis import calibration

LINE = "analyze resnet8-digits --data digits --num_images 12 --draws 2 "


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """Costs on 60 images: how near they come to the drop is tested where costs are known."""
    monkeypatch.setattr(calibration, "ROUGH_IMAGES", 60)


def test_the_folder_holds_the_numbers_of_every_image_and_the_pictures(command):
    said = command(*LINE.split(), "--layers", "layer*", "--output", "folder")
    assert (said.status, said.err) == (0, "")
    facts = json.loads(Path("folder", "analysis.json").read_text())
    assert [place["name"] for place in facts["places"]] == ["the image", "layer1", "layer2", "layer3"]
    assert len(facts["image_ids"]) == len(facts["places"][3]["measured"]) == len(facts["places"][3]["norms"]) == 12
    assert facts["attacker"] == {"step": 0.2, "eps": 0.2, "draws": 2}
    assert facts["costs_measured_on"] == 60
    assert sorted(facts["ranking"]) == ["layer1", "layer2", "layer3", "the image"]
    for place in facts["places"]:
        assert 0 < place["drop"] < 0.06
        low, high = place["measured_interval"]
        assert low <= np.mean(place["measured"]) <= high
        assert place["magnitudes"] == pytest.approx([place["quantile"] * norm for norm in place["norms"]])
    pictures = {f"{name}.{kind}" for name in ("ratios", "magnitudes", "misled") for kind in ("png", "pdf")}
    assert {path.name for path in Path("folder").iterdir()} == {"analysis.json", *pictures}
    assert "predicted to mislead most at a measured cost of about 2 points: " in said.out
    lines = said.out.splitlines()
    assert any(re.match(r" the image +[0-9.]+ +1 +1 ", line) for line in lines), "the table fits 80 columns"


def test_the_default_layers_are_those_of_the_noise_and_a_run_is_not_overwritten(command):
    assert command(*LINE.split()).status == 0
    facts = json.loads(Path("analysis", "analysis.json").read_text())
    assert [place["name"] for place in facts["places"]] == ["the image", "layer3"]
    said = command(*LINE.split())
    assert said.status == 2
    assert said.err == "rfdlight: analysis already holds another run; give another folder, or move that one\n"


CASES = {
    "no step": ("--step 0", "step: expected a positive number, got 0.0"),
    "no eps": ("--eps 0", "eps: expected a positive number, got 0.0"),
    "drop in points": ("--target_drop 2", "target_drop: expected a number in (0, 1), got 2.0"),
    "no draws": ("--draws 0", "draws: expected at least 1, got 0"),
    "one image": ("--num_images 1", "num_images: expected at least 2, got 1"),
    "too many images": (
        "--num_images 400",
        "num_images: expected at most 399 test images that are not attacked, got 400",
    ),
    "unknown layer": ("--layers stem", "no layer matches 'stem'; the network has conv1, bn1, layer1, layer1.0, "),
    "unknown side": ("--at middle", "at: unknown value 'middle'; known: input, output"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_writes_nothing(name, command, elsewhere):
    options, expected = CASES[name]
    said = command(*LINE.split(), *options.split())
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith(f"rfdlight: {expected}")
    assert list(elsewhere.iterdir()) == []

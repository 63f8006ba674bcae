"""`rfdlight analyze` on a command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rfdlight.analysis import calibration

LINE = "analyze resnet8-digits --data digits --num_images 6 --draws 2 "


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """Costs on 60 images: how near they come to the drop is tested where costs are known."""
    monkeypatch.setattr(calibration, "ROUGH_IMAGES", 40)


def test_the_folder_holds_the_numbers_of_every_image_and_the_pictures(command):
    said = command(*LINE.split(), "--layers", "layer3", "--output", "folder")
    assert (said.status, said.err) == (0, "")
    facts = json.loads(Path("folder", "analysis.json").read_text())
    assert [place["name"] for place in facts["places"]] == ["the image", "layer3"]
    assert len(facts["image_ids"]) == len(facts["places"][1]["measured"]) == len(facts["places"][1]["norms"]) == 6
    assert facts["attacker"] == {"step": 0.2, "eps": 0.2, "draws": 2}
    assert facts["costs_measured_on"] == 40
    assert sorted(facts["ranking"]) == ["layer3", "the image"]
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


def test_a_run_is_not_overwritten(command):
    Path("analysis").mkdir()
    Path("analysis/mine").touch()
    said = command(*LINE.split())
    assert said.status == 2
    assert said.err == "rfdlight: analysis already holds another run; give another folder, or move that one\n"

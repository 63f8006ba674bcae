"""Images on which a victim fails, from the command line to the report."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from rfdlight.data import Digits
from rfdlight.records.records import read_records

FUSSY = """
import torch
from nearest_mean import NearestMean
from rfdlight.data import Digits

class Fussy(NearestMean):
    '''Raises at one of twelve images, and answers NaN at another.'''

    def __init__(self):
        super().__init__()
        self.hard, self.empty = Digits(num_images=12).attacked().read([6, 9]).float().div(255)

    def forward(self, x):
        if self.sees(self.hard, x).any():
            raise ValueError("too hard\\nfor me")
        return torch.where(self.sees(self.empty, x)[:, None], torch.nan, super().forward(x))

    def sees(self, image, x):
        return (x == image).flatten(1).all(1)

class Tight(NearestMean):
    def forward(self, x):
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)

class Red(torch.nn.Module):
    def forward(self, x):
        return torch.stack([x[:, 0].mean((1, 2)), x[:, 1].mean((1, 2)) + 0.4], 1)

class Broken(NearestMean):
    def forward(self, x):
        if x.any():
            raise ValueError("no light\\nplease")
        return super().forward(x)
"""
LINE = "test --attack random_noise --data digits --data.num_images 12 --model.batch_size 4 --model.budget 5 --run run"


@pytest.fixture(autouse=True)
def victims(nearest_mean, elsewhere):
    (elsewhere / "fussy.py").write_text(FUSSY)
    torch.manual_seed(0)
    yield
    sys.modules.pop("fussy", None)


def test_a_run_with_failing_images_is_complete_without_them_and_says_so(command):
    ids = Digits(num_images=12).attacked().ids
    said = command(*LINE.split(), "--model.victim", "fussy.Fussy")
    assert said.status == 1
    assert said.err == "rfdlight: 2 of 12 images failed and are in no number; summary.json says why\n"
    reasons = {ids[6]: "ValueError: too hard", ids[9]: "the victim answered NaN or infinity"}
    for line in ("FAILED: 2 of 12 images", *(f"{name}: {reason}" for name, reason in reasons.items())):
        assert line in said.out
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["run"]["failed"] == reasons
    assert summary["run"]["complete"] is True
    assert summary["counts"]["images"] == 10
    assert [record.id for record in read_records(Path("run/records.jsonl"))] == [
        image_id for image_id in ids if image_id not in reasons
    ]

    note = "run: FAILED: 2 of 12 images"
    assert command("report", "run", "--output", "new").status == 0
    assert note in Path("new/report.md").read_text()


@pytest.mark.slow
def test_an_image_that_cannot_be_read_counts_as_one_that_failed(command):
    for i in range(6):
        path = Path(f"flowers/test/{('rose', 'tulip')[i % 2]}/{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(path)
    path.write_bytes(path.read_bytes()[:20])
    line = "test --attack random_noise --data folder --data.root flowers --data.num_images 6 --model.budget 3 --run run"
    said = command(*line.split(), "--model.victim", "fussy.Red")
    assert (said.status, said.err) == (
        1, "rfdlight: 1 of 6 images failed and are in no number; summary.json says why\n",
    )  # fmt: skip
    summary = json.loads(Path("run/summary.json").read_text())
    assert [*summary["run"]["failed"]] == ["folder/test/tulip/5.png"]
    assert summary["run"]["failed"]["folder/test/tulip/5.png"].startswith(f"cannot read the image {path}: ")
    assert summary["run"]["complete"] is True
    assert len(read_records(Path("run/records.jsonl"))) == 5
    resumed = command("test", "--resume", "run")
    assert resumed.status == 1
    assert json.loads(Path("run/summary.json").read_text())["run"]["failed"] == summary["run"]["failed"]


def test_a_victim_that_fails_on_everything_is_one_line_and_no_run(command):
    said = command(*LINE.split(), "--model.victim", "fussy.Broken")
    assert (said.status, said.out) == (2, "")
    assert said.err == "rfdlight: the victim raised ValueError: no light\n"
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_run_that_memory_is_too_small_for_goes_on_in_smaller_passes(command):
    said = command(*LINE.split(), "--model.victim", "fussy.Tight")
    assert (said.status, said.err) == (0, "")
    assert said.out.count("memory ran out: forward passes of 2 images from here on") == 1
    assert "OUT OF MEMORY: the batch size was reduced from 4 to 2 images" in said.out
    summary = json.loads(Path("run/summary.json").read_text())
    assert (summary["run"]["batch_size"], summary["run"]["batch_size_used"]) == (4, 2)
    assert summary["counts"]["images"] == 12
    assert command("report", "run", "--output", "out").status == 0
    assert "run: OUT OF MEMORY: the batch size was reduced from 4 to 2 images" in Path("out/report.md").read_text()

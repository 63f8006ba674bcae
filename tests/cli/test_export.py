"""`rfdlight export`: what it prints, writes and refuses."""

import json
from pathlib import Path

import pytest

from rfdlight.cli import export
from rfdlight.deployment import formats
from rfdlight.deployment.card import ExportCard
from rfdlight.deployment.check import Finding

LINE = (
    "export nearest_mean.NearestMean --data digits --defense input_noise --defense.sigma 0.2 --draws 32 --num_images 2"
)


@pytest.fixture(autouse=True)
def victim(nearest_mean):
    """The victim of these lines."""


@pytest.mark.slow
def test_the_file_and_its_card_are_written_and_the_findings_printed(command):
    pytest.importorskip("onnxruntime")
    said = command(*LINE.split())
    assert (said.status, said.err) == (0, "")
    card = json.loads(Path("defended.onnx.json").read_text())
    assert card["passed"]
    assert Path("defended.onnx").stat().st_size == card["bytes"]
    for finding in card["check"]:
        assert finding["name"] in said.out
    assert card["seeding"] in said.out


def test_a_check_that_fails_is_printed_and_the_status_is_1(command, monkeypatch):
    pytest.importorskip("onnxruntime")
    card = ExportCard(
        file="broken.onnx", format="onnx", sha256="0" * 64, bytes=1, opset=18, victim="mine", weights_sha256="0" * 64,
        defense=[], points=[], input_shape=(3, 32, 32), classes=10, clean_accuracy=None, versions={}, seeding="by rank",
        warnings=["no seed"], passed=False, check=[Finding("rows", False, "all rows have one noise")],
    )  # fmt: skip
    monkeypatch.setattr(export, "export_unraised", lambda *_, **__: card)
    said = command(*LINE.split())
    assert said.status == 1
    assert said.err.startswith("rfdlight: broken.onnx failed its check, and is kept; rows: all rows have one noise")
    assert said.err.count("\n") == 1
    assert all(word in said.out for word in ("FAILED", "no seed", "by rank"))


@pytest.mark.slow
def test_a_file_that_fails_its_check_is_kept_and_the_status_is_1(command):
    pytest.importorskip("onnxruntime")
    Path("once.py").write_text(
        "import torch\nfrom rfdlight.defenses import InputNoise\n\n\nclass Once(InputNoise):\n"
        "    def noise(self, x):\n        return torch.randn_like(x[:1]).expand_as(x)\n"
    )
    said = command(*LINE.replace("input_noise", "once.Once").split(), "--output", "broken.onnx")
    assert said.status == 1
    assert said.err.startswith("rfdlight: broken.onnx failed its check, and is kept; ")
    assert said.err.count("\n") == 1
    card = json.loads(Path("broken.onnx.json").read_text())
    assert {"rows", "noise rows"} <= {finding["name"] for finding in card["check"] if finding["passed"] is False}
    assert Path("broken.onnx").is_file()


def test_a_missing_extra_is_one_line(command, monkeypatch):
    monkeypatch.setitem(formats.PACKAGES, "onnx", ("no_such_package",))
    said = command(*LINE.split())
    assert said.status == 2
    assert said.err == (
        "rfdlight: format onnx: expected the package no_such_package, got none; "
        "pip install 'rfdlight[onnx]' installs it\n"
    )

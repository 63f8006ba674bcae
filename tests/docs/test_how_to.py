"""The Python blocks of the how-to pages run, and print what the pages show."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
import torchvision
from pages import blocks, page_named
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import rfdlight as rfd
from rfdlight.data import Digits
from rfdlight.victims.resolve import resolve_victim


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def block_with(page: str, text: str) -> str:
    (body,) = (body for body in blocks(page_named(page), "python") if text in body)
    return body


def test_the_timm_example_attacks_images_of_224_pixels(quick_runs):
    own: dict[str, Any] = {}
    exec(block_with("use-your-own-victim.md", "timm.create_model"), own)
    run = own["run"]
    assert run.adversarial.shape == (4, 3, 224, 224)
    assert run.clean_accuracy.value == 1
    assert run.is_consistent


def test_the_network_of_the_page_is_a_victim_with_the_layer_that_gets_noise(folder):
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), "my_net.pt")
    (folder / "my_net.py").write_text(block_with("use-your-own-victim.md", "def my_net"))
    loaded = resolve_victim("my_net.my_net", None, Digits())
    sys.modules.pop("my_net")
    assert loaded.card is None
    assert "layer3" in dict(loaded.module.network.named_modules())


def test_the_function_on_arrays_prints_what_the_page_shows(capsys):
    exec(block_with("use-your-own-victim.md", "rfd.wrap"), {})
    (shown,) = blocks(page_named("use-your-own-victim.md"), "text")
    # The classifier is trained anew: one image of 40 may go the other way elsewhere.
    printed = [float(number) for number in re.findall(r"[\d.]+(?=%)", capsys.readouterr().out)]
    assert printed == pytest.approx([float(number) for number in re.findall(r"[\d.]+(?=%)", shown)], abs=2.6)


def test_tensors_and_loaders_are_attacked_with_their_ids(quick_runs, capsys):
    exec(block_with("use-your-own-data.md", "TensorDataset"), {})
    assert [capsys.readouterr().out] == blocks(page_named("use-your-own-data.md"), "text")


def test_the_folder_of_the_page_gives_images_of_224_pixels(folder):
    for name in ("cat", "dog"):
        (folder / "pets/test" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (30 + number, 20), (10 * number,) * 3).save(folder / f"pets/test/{name}/{number:02d}.jpg")
    own: dict[str, Any] = {"torch": torch}
    exec(block_with("use-your-own-data.md", "ImageFolder"), own)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    run = rfd.evaluate(model, own["data"], attack="square", eps=0.05, budget=2, sanity_checks=False)
    assert run.adversarial.shape == (12, 3, 224, 224)
    assert sum(record.label for record in run.records) == 6


def test_the_data_module_of_the_page_gives_batches():
    own: dict[str, Any] = {"__name__": "my_data"}
    exec(block_with("use-your-own-data.md", "class MyData"), own)
    data = own["MyData"](num_images=20)
    data.setup("test")
    ((x, y, ids),) = data.test_dataloader()
    assert x.shape == (20, 3, 32, 32)
    assert 0 <= x.min() <= x.max() <= 1
    assert torch.bincount(y).tolist() == [2] * 10
    assert ids == sorted(ids)


def test_a_module_of_lightning_becomes_a_data_module():
    class Foreign:
        def prepare_data(self) -> None:
            self.data = TensorDataset(torch.rand(20, 3, 8, 8), torch.arange(20) % 10)

        def setup(self, stage: str) -> None:
            assert stage == "test"

        def test_dataloader(self) -> DataLoader:
            return DataLoader(self.data)

    own: dict[str, Any] = {"__name__": "from_module", "ImageData": rfd.ImageData, "MyDataModule": Foreign}
    exec(block_with("use-your-own-data.md", "class FromModule"), own)
    assert own["FromModule"](num_images=10).attacked().read([0]).shape == (1, 3, 8, 8)


def test_the_blocks_on_records_run_in_turn_and_agree_with_each_other(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    own: dict[str, Any] = {}
    for body in blocks(page_named("read-records.md"), "python"):
        less = body.replace("num_images=20", "num_images=4").replace("budget=100", "budget=100, sanity_checks=False")
        exec(less, own)
    plain, noisy = own["plain"], own["noisy"]
    assert own["table"].shape[0] == 4
    for name, run in (("plain", plain), ("noise", noisy)):
        assert own["curves"][name].iloc[-1] == run.robust_accuracy.value == own["robust"][name].mean()
    assert own["p"] == pytest.approx(rfd.compare(plain, noisy).p)
    assert own["by_hand"][100] == plain.robust_accuracy.value
    assert [row["failed"] for row in own["rows"]] == [[], []]
    plt.close("all")

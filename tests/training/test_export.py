"""What a stored victim says of data of which a part cannot be read."""

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from timm import create_model

from rfdlight.cli.scales import scales
from rfdlight.data.folder import ImageFolder
from rfdlight.training.classifier import Classifier
from rfdlight.training.export import count_correct, export_victim
from rfdlight.victims.card import load_victim
from rfdlight.victims.victim import Victim

TEST, TRAIN, BROKEN = 12, 8, {"test": (0, 7), "train": (3,)}


@pytest.fixture
def data(tmp_path):
    """Two classes; in the test split two files are broken, in the training split one."""
    for split, count in (("test", TEST), ("train", TRAIN)):
        for i in range(count):
            path = tmp_path / "flowers" / split / ("rose", "tulip")[i % 2] / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (20 * i, 255 - 20 * i, 0)).save(path)
            if i in BROKEN[split]:
                path.write_bytes(b"no image")
    return ImageFolder(str(tmp_path / "flowers"), num_images=4)


@pytest.fixture
def victim():
    torch.manual_seed(0)
    network = create_model("resnet8", num_classes=2)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.tensor([1.0, 0.0]))  # class 0 of every image
    return Victim(network, (0.5,) * 3, (0.25,) * 3).eval()


@pytest.fixture
def exported(data, victim, tmp_path):
    module = Classifier("resnet8")
    module.victim = victim
    return export_victim(module, data, tmp_path, "rfdlight fit", seed=0, seconds=0.0)


def counted(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()["num_images"]


@pytest.mark.parametrize("batch_size", [4, 250])
def test_what_cannot_be_read_counts_neither_as_right_nor_as_wrong(data, victim, batch_size):
    assert count_correct(victim, data.images("test"), batch_size) == (5, TEST - 2)


def test_the_card_counts_the_images_that_the_victim_has_answered(exported):
    assert (exported.clean_correct, exported.clean_total, exported.clean_accuracy) == (5, 10, 0.5)


def test_scales_say_on_how_many_images_they_were_measured(data, exported, tmp_path, capsys):
    stored = tmp_path / "victim.scales.safetensors"
    assert counted(stored) == str(TRAIN - 1)
    before = load_victim(tmp_path / "victim.json")[0].feature_scales
    stored.unlink()
    scales(str(tmp_path / "victim.json"), data, num_images=TRAIN)
    assert counted(stored) == str(TRAIN - 1)
    assert f"measured on {TRAIN - 1} training images of folder" in capsys.readouterr().out.replace("\n", " ")
    after = load_victim(tmp_path / "victim.json")[0].feature_scales
    torch.testing.assert_close(after, before, rtol=1e-4, atol=0)

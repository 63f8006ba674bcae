"""Files and modules that a user might hand to a command, each with one fault."""

import json
from pathlib import Path

import msgspec
import timm
import torch
from hand import facts

from rfdlight.data.digits import Digits
from rfdlight.records.schema import SCHEMA
from rfdlight.victims import Victim
from rfdlight.victims.card import save_victim

FAULTY = """
import torch
from torch import nn

from rfdlight.attacks import RayS
from rfdlight.data.sources import Images
from rfdlight.data.digits import Digits


class Shifted(Digits):
    '''Labels from 1 to 10.'''

    def load(self, split):
        images = super().load(split)
        return Images(images.pixels, images.labels + 1, images.ids)


class Bright(Digits):
    '''Pixels from 0 to 255.'''

    def test_dataloader(self):
        for x, y, ids in super().test_dataloader():
            yield x * 255, y, ids


class ThreeOutputs(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3]


class Unsure(nn.Module):
    '''Answers NaN where there is any light.'''

    def forward(self, x):
        logits = x.flatten(1)[:, :10]
        return torch.where(x.flatten(1).sum(1, keepdim=True) > 0, torch.nan, logits)


def needs_a_depth(depth):
    return nn.Identity()


a_module = nn.Identity()
a_number = lambda: 3


class Unrelated:
    pass
"""


def write_victims(folder: Path) -> None:
    """`tiny`, a sound card, and what can be wrong with one."""
    torch.manual_seed(0)
    facts = {"image_shape": (3, 32, 32), "data": "digits", "command": "", "seed": 0, "versions": {}}
    facts |= {"clean_correct": 1, "clean_total": 2}

    def save(name: str, classes: int = 10) -> dict:
        network = timm.create_model("resnet8", num_classes=classes)
        victim = Victim(network, Digits.mean, Digits.std)
        save_victim(victim, folder / f"{name}.json", network="resnet8", num_classes=classes, **facts)
        return json.loads((folder / f"{name}.json").read_text())

    save("tiny")
    save("three", classes=3)
    for name, changed in (
        ("altered", {"sha256": 64 * "0"}),
        ("deeper", {"network": "resnet20"}),
        ("unheard", {"network": "resnet9"}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(save(name) | changed))
    (folder / "bare.json").write_text((folder / "tiny.json").read_text())
    (folder / "pickled.json").write_text((folder / "tiny.json").read_text())
    torch.save({"weight": torch.zeros(1)}, folder / "pickled.safetensors")
    (folder / "nonsense.json").write_text("[1, 2]")


def write_checkpoints(folder: Path) -> None:
    """Weights of a user that hold code, or are cut off in the middle."""

    class Code:
        def __reduce__(self):
            return Path.touch, (folder / "canary",)

    torch.save({"state_dict": Code()}, folder / "code.pt")
    torch.save({"weight": torch.zeros(100)}, folder / "half.pt")
    for whole, half in (("half.pt", "half.pt"), ("tiny.safetensors", "half.safetensors")):
        content = (folder / whole).read_bytes()
        (folder / half).write_bytes(content[: len(content) // 2])


def write_data(folder: Path) -> None:
    (folder / "tree/test/cat").mkdir(parents=True)
    (folder / "tree/test/cat/damaged.png").write_bytes(b"no image")
    (folder / "zoo/test/lion").mkdir(parents=True)
    (folder / "zoo/test/lion/a.png").write_bytes(b"no image")
    for flower in ("rose", "tulip"):
        (folder / f"flowers/test/{flower}").mkdir(parents=True)
        (folder / f"flowers/test/{flower}/damaged.png").write_bytes(b"no image")
    (folder / "garden/test/rose").mkdir(parents=True)
    (folder / "flat/val").mkdir(parents=True)
    (folder / "flat/val/ILSVRC2012_val_00000001.JPEG").write_bytes(b"no image")
    (folder / "empty").mkdir()


def write_configs(folder: Path) -> None:
    for name, text in (
        ("list", "- budget\n"),
        ("nothing", ""),
        ("broken", "model: [\n"),
        ("key", "model: {budgte: 3}\n"),
        ("section", "modle: {budget: 3}\n"),
        ("name", "attack: rayz\n"),
        ("option", "attack: {class_path: rays, init_args: {epsilon: 0.1}}\n"),
        ("null_model", "model: {budget: null}\n"),
        ("null_network", "model: {network: null}\n"),
        ("null_attack", "attack: {class_path: square, init_args: {p: null}}\n"),
        ("null_defense", "defense: [{class_path: input_noise, init_args: {sigma: null}}]\n"),
        ("null_trainer", "trainer: {accelerator: null}\n"),
        ("twice", "trainer: {callbacks: [EMAWeightAveraging, EMAWeightAveraging]}\n"),
        ("negative", "defense: [feature_noise, {class_path: input_noise, init_args: {sigma: -1}}]\n"),
    ):
        (folder / f"{name}.yaml").write_text(text)


def write_run(folder: Path) -> None:
    """A run of 30 queries per image that was stopped before the first one, with images that are none."""
    folder.mkdir()
    (folder / "config.yaml").write_text("seed_everything: 0\n")
    (folder / "records.jsonl").write_text("")
    run = facts(complete=False)
    (folder / "summary.json").write_bytes(msgspec.json.encode({"schema": SCHEMA, "run": run}))
    (folder / "images.safetensors").write_bytes(b"")

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


class ThreeOutputs(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3]


class Unsure(nn.Module):
    '''Answers NaN where there is any light.'''

    def forward(self, x):
        logits = x.flatten(1)[:, :10]
        return torch.where(x.flatten(1).sum(1, keepdim=True) > 0, torch.nan, logits)


class Unrelated:
    pass
"""


def write_victims(folder: Path) -> None:
    """A card with other classes than the data, and one of other weights."""
    torch.manual_seed(0)
    facts = {"image_shape": (3, 32, 32), "data": "digits", "command": "", "seed": 0, "versions": {}}
    facts |= {"clean_correct": 1, "clean_total": 2}

    def save(name: str, classes: int = 10) -> dict:
        network = timm.create_model("resnet8", num_classes=classes)
        victim = Victim(network, Digits.mean, Digits.std)
        save_victim(victim, folder / f"{name}.json", network="resnet8", num_classes=classes, **facts)
        return json.loads((folder / f"{name}.json").read_text())

    save("three", classes=3)
    (folder / "altered.json").write_text(json.dumps(save("altered") | {"sha256": 64 * "0"}))


def write_checkpoints(folder: Path) -> None:
    """Weights of a user that hold code."""

    class Code:
        def __reduce__(self):
            return Path.touch, (folder / "canary",)

    torch.save({"state_dict": Code()}, folder / "code.pt")


def write_configs(folder: Path) -> None:
    for name, text in (
        ("list", "- budget\n"),
        ("broken", "model: [\n"),
        ("key", "model: {budgte: 3}\n"),
        ("section", "modle: {budget: 3}\n"),
        ("name", "attack: rayz\n"),
        ("option", "attack: {class_path: rays, init_args: {epsilon: 0.1}}\n"),
        ("null_model", "model: {budget: null}\n"),
        ("group", "model: 3\n"),
        ("deep", f"run: {'[' * 60}{']' * 60}\n"),
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

"""From a trained classifier to a victim on disk."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch

from rfdlight.data.base import ImageData, Images, loader
from rfdlight.modules.classifier import Classifier
from rfdlight.victims.card import VictimCard, save_victim
from rfdlight.victims.victim import Victim


def export_victim(module: Classifier, data: ImageData, folder: Path, command: str, seed: int) -> VictimCard:
    """Evaluate the trained network on the whole test set and write weights and card.

    Args:
        module: After its training.
        data: What it was trained on.
        folder: Gets `victim.safetensors` and `victim.json`.
        command: The command line, for the card.
        seed: The run's, for the card.
    """
    # In the layout that a reader of the file gets, so that the card's count is theirs to the image.
    victim = module.victim.to("cpu").to(memory_format=torch.contiguous_format).eval()
    test = data.images("test")
    return save_victim(
        victim,
        folder / "victim.json",
        network=module.network_name,
        num_classes=data.num_classes,
        image_shape=tuple(test.pixels.shape[1:]),
        data=data.name,
        command=command,
        seed=seed,
        clean_correct=count_correct(victim, test),
        clean_total=len(test),
        versions={name: version(name) for name in ("rfdlight", "torch", "lightning", "timm")},
    )


@torch.no_grad()
def count_correct(victim: Victim, images: Images, batch_size: int = 250) -> int:
    """Count the images that `victim` classifies rightly, one draw each where it is random."""
    correct = 0
    for x, y, _ in loader(images, batch_size):
        correct += int((victim(x).argmax(1) == y).sum())
    return correct

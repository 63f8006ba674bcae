"""From a trained classifier to a victim on disk."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch

from rfdlight.data.base import ImageData, Images, loader
from rfdlight.defenses.insertion_points import default_points
from rfdlight.modules.classifier import Classifier
from rfdlight.victims.card import VictimCard, save_victim
from rfdlight.victims.scales import NUM_IMAGES, calibration_images, measure_scales, save_scales, scales_path
from rfdlight.victims.victim import Victim


def export_victim(module: Classifier, data: ImageData, folder: Path, command: str, seed: int) -> VictimCard:
    """Evaluate the trained network on the whole test set and write weights, card and scales.

    The scales are those of the features at the network's default insertion points, if it has any.

    Args:
        module: After its training.
        data: What it was trained on.
        folder: Gets `victim.safetensors`, `victim.json` and `victim.scales.safetensors`.
        command: The command line, for the card.
        seed: The run's, for the card.
    """
    # In the layout that a reader of the file gets, so that the card's count is theirs to the image.
    victim = module.victim.to("cpu").to(memory_format=torch.contiguous_format).eval()
    test = data.images("test")
    path = folder / "victim.json"
    card = save_victim(
        victim,
        path,
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
    points = [(place.name, place.side) for place in default_points(victim.network)]
    if points:
        images = calibration_images(data, min(NUM_IMAGES, len(data.images("train"))))
        save_scales(scales_path(path), measure_scales(victim, images, points), card.sha256, data.name, len(images))
    return card


@torch.no_grad()
def count_correct(victim: Victim, images: Images, batch_size: int = 250) -> int:
    """Count the images that `victim` classifies rightly, one draw each where it is random."""
    correct = 0
    for x, y, _ in loader(images, batch_size):
        correct += int((victim(x).argmax(1) == y).sum())
    return correct

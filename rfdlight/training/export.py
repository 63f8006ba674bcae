"""Export of a trained classifier as a victim with its card."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from rfdlight.attacks.pgd import PGD
from rfdlight.data.base import ImageData
from rfdlight.data.loaders import loader
from rfdlight.data.sources import ImageSource
from rfdlight.defenses.insertion_points import default_points
from rfdlight.training.adversary import attacked
from rfdlight.training.classifier import Classifier
from rfdlight.victims.card import VictimCard, save_victim
from rfdlight.victims.scales import NUM_IMAGES, calibration_images, measure_scales, save_scales, scales_path
from rfdlight.victims.victim import Victim


def export_victim(
    module: Classifier, data: ImageData, folder: Path, command: str, seed: int, seconds: float
) -> VictimCard:
    """Evaluate a trained network on the test set; write `victim.json`, its weights and its scales into `folder`.

    The scales are those of the features at the network's default insertion points, if it has any.
    """
    # In the memory layout of a loaded victim, so that both classify the same images correctly.
    victim = module.victim.to("cpu").to(memory_format=torch.contiguous_format).eval()
    test = data.images("test")
    path = folder / "victim.json"
    correct, answered = count_correct(victim, test)
    card = save_victim(
        victim,
        path,
        network=module.network_name,
        network_options=module.network_options,
        num_classes=data.num_classes,
        image_shape=data.image_shape,
        preparation=data.preparation,
        data=data.name,
        command=command,
        seed=seed,
        clean_correct=correct,
        clean_total=answered,
        train_seconds=round(seconds),
        **pgd10(module, data),
        versions={name: version(name) for name in ("rfdlight", "torch", "lightning", "timm")},
    )
    points = [point.key for point in default_points(victim.network)]
    if points:
        images = calibration_images(data, min(NUM_IMAGES, len(data.images("train"))))
        scales, looked_at = measure_scales(victim, images, points)
        save_scales(scales_path(path), scales, card.sha256, data.name, looked_at)
    return card


def pgd10(module: Classifier, data: ImageData, batch_size: int = 100) -> dict[str, Any]:
    """Return the card's fields on PGD-10, in the ball of the training; none without an adversary.

    The images are the test images that `rfdlight test` attacks by default.
    """
    if module.adversary is None:
        return {}
    threat, images = module.adversary.threat, data.attacked()
    attack = PGD(eps=threat.eps, norm=threat.norm)
    correct = 0
    for x, y, _ in loader(images, batch_size):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)  # so that the count can be repeated
            correct += int((module.victim(attacked(module.victim, attack, x, y)).argmax(1) == y).sum())
    return {"pgd10_correct": correct, "pgd10_total": len(images), "pgd10_eps": threat.eps}


def take_best_weights(trainer: Trainer, module: Classifier) -> None:
    """Load the weights of the best epoch, if a ModelCheckpoint callback monitors one."""
    monitors = [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint) and saver.monitor]
    best = next((saver.best_model_path for saver in monitors), "")
    if best:
        # Lightning's file of this very run.
        module.load_state_dict(torch.load(best, map_location="cpu", weights_only=False)["state_dict"])


@torch.no_grad()
def count_correct(victim: Victim, images: ImageSource, batch_size: int = 250) -> tuple[int, int]:
    """Count the images that `victim` classifies correctly, by one evaluation each, and all that can be read."""
    correct = answered = 0
    for x, y, _ in loader(images, batch_size):
        correct += int((victim(x).argmax(1) == y).sum())
        answered += len(y)
    return correct, answered

"""A look at the clean accuracy before an attack begins."""

from __future__ import annotations

import torch

from rfdlight.core.chance import chance_warning
from rfdlight.data.loaders import loader
from rfdlight.data.sources import ImageSource, UnreadableImageError
from rfdlight.data.subset import spread
from rfdlight.engine.config import MOST_ROWS
from rfdlight.engine.failures import OutOfMemory, VictimError
from rfdlight.engine.oracle import Oracle


def clean_accuracy_warning(oracle: Oracle, images: ImageSource, classes: int, device: torch.device) -> str | None:
    """Return one line if the accuracy on clean images is at chance level, with the likeliest cause, else None.

    The victim answers up to 64 images once, evenly spread over all; these are rows of no attacked image.

    Args:
        oracle: Owns the victim, with its defenses in place.
        images: That are attacked.
        classes: Of the victim.
        device: Of the victim.
    """
    sample = images.take(spread(list(range(len(images))), MOST_ROWS))
    predictions, labels = [], []
    try:
        for x, y, _ in loader(sample, oracle.batch_size):
            clock = torch.zeros_like(y, device=device)
            predictions.append(oracle.scores(x.to(device), clock, "criterion").argmax(1).cpu())
            labels.append(y)
    except (
        VictimError,
        OutOfMemory,
        UnreadableImageError,
    ):  # the attack itself finds the image, and goes on without it
        return None
    return chance_warning(torch.cat(predictions), torch.cat(labels), classes)

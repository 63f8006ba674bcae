"""Where targeted attacks that read labels start: images of the other classes."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.data.base import Images
from rfdlight.engine.oracle import Oracle
from rfdlight.errors import UserError

_TRIED, _KEPT = 20, 5
"""Images per class that are looked at, and at most kept."""


def find_starts(oracle: Oracle, images: Images, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Choose images that the victim answers with their own class.

    The victim is asked once for each; these are rows of no attacked image.

    Args:
        oracle: Owns the victim.
        images: To choose from, in order.
        classes: Of the victim.
        device: Of the victim.

    Returns:
        Images (rows, C, H, W) and their classes (rows,).

    Raises:
        UserError: If a class has none.
    """
    kept, kept_classes = [], []
    for number in range(classes):
        of_class = images.take((images.labels == number).nonzero()[:_TRIED, 0].tolist())
        pixels = of_class.pixels.to(device).float().div_(255)
        clock = torch.zeros(len(pixels), dtype=torch.int64, device=device)
        parts = zip(pixels.split(oracle.batch_size), clock.split(oracle.batch_size), strict=True)
        answers = [oracle.scores(part, times, "judge").argmax(1) for part, times in parts if len(part)]
        right = pixels[torch.cat(answers) == number][:_KEPT] if answers else pixels
        if not len(right):
            raise UserError(
                f"a targeted attack of this kind starts from images of its target, but the victim is right "
                f"on none of the first {len(of_class)} test images of class {number}"
            )
        kept.append(right)
        kept_classes += [number] * len(right)
    return torch.cat(kept), torch.tensor(kept_classes, device=device)

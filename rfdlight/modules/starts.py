"""Where targeted attacks that read labels start: images of the other classes."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.data.base import ImageSource
from rfdlight.engine.oracle import Oracle
from rfdlight.errors import UserError

_TRIED, _KEPT = 20, 5
"""Images per class that are looked at, and at most kept."""


def find_starts(oracle: Oracle, images: ImageSource, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
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
    tried = [(images.labels == number).nonzero()[:_TRIED, 0] for number in range(classes)]
    right: set[int] = set()
    for part in torch.cat(tried).split(oracle.batch_size):
        pixels = images.read(part.tolist()).to(device).float().div_(255)
        clock = torch.zeros(len(part), dtype=torch.int64, device=device)
        answers = oracle.scores(pixels, clock, "judge").argmax(1).cpu()
        right |= set(part[answers == images.labels[part]].tolist())
    kept: list[int] = []
    for number, of_class in enumerate(tried):
        chosen = [position for position in of_class.tolist() if position in right][:_KEPT]
        if not chosen:
            raise UserError(
                f"a targeted attack of this kind starts from images of its target, but the victim is right "
                f"on none of the first {len(of_class)} test images of class {number}"
            )
        kept += chosen
    return images.read(kept).to(device).float().div_(255), images.labels[kept].to(device)

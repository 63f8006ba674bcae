"""The victim's answers to clean images before an attack: accuracy at chance level, and starting points."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.core.chance import chance_warning
from rfdlight.data.conversion import unit_range
from rfdlight.data.loaders import loader
from rfdlight.data.sources import ImageSource, UnreadableImageError, read_readable
from rfdlight.data.subset import spread
from rfdlight.engine.config import MOST_ROWS
from rfdlight.engine.failures import OutOfMemory, VictimError
from rfdlight.engine.oracle import Oracle
from rfdlight.engine.probe import logits_of
from rfdlight.errors import UserError

_TRIED, _KEPT = 20, 5
"""Images per class that are evaluated, and at most kept, as starting points."""


def clean_accuracy_warning(oracle: Oracle, images: ImageSource, classes: int, device: torch.device) -> str | None:
    """Return one line with the likeliest cause if the accuracy on up to 64 of the images is at chance level."""
    sample = images.take(spread(list(range(len(images))), MOST_ROWS))
    predictions, labels = [], []
    try:
        for x, y, _ in loader(sample, oracle.batch_size):
            predictions.append(logits_of(oracle, x.to(device)).argmax(1).cpu())
            labels.append(y)
    except (VictimError, OutOfMemory, UnreadableImageError):  # the attack itself leaves out such an image
        return None
    return chance_warning(torch.cat(predictions), torch.cat(labels), classes)


def find_starting_points(
    oracle: Oracle, images: ImageSource, classes: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Choose images (rows, C, H, W) that the victim classifies correctly, up to 5 of each class, and their classes.

    Unreadable images, and a forward pass in which the victim fails, are left out.
    """
    tried = [(images.labels == number).nonzero()[:_TRIED, 0] for number in range(classes)]
    right: set[int] = set()
    for part in torch.cat(tried).split(oracle.batch_size):
        try:
            pixels, read = read_readable(images, part.tolist())
            found = logits_of(oracle, unit_range(pixels.to(device))).argmax(1).cpu()
        except UnreadableImageError as error:
            error.leave_out()
        except VictimError as error:
            if error.together:
                raise
        else:
            right |= {position for position, same in zip(read, found == images.labels[read], strict=True) if same}
    kept: list[int] = []
    for number, of_class in enumerate(tried):
        chosen = [position for position in of_class.tolist() if position in right][:_KEPT]
        if not chosen:
            raise UserError(
                f"a targeted attack of this kind starts from images of its target, but the victim is right "
                f"on none of the first {len(of_class)} test images of class {number}"
            )
        kept += chosen
    return unit_range(images.read(kept).to(device)), images.labels[kept].to(device)

"""Where targeted attacks that read labels start: images of the other classes."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.data.conversion import unit_range
from rfdlight.data.sources import ImageSource, UnreadableImageError, read_readable
from rfdlight.engine.failures import VictimError
from rfdlight.engine.oracle import Oracle
from rfdlight.errors import UserError

_TRIED, _KEPT = 20, 5
"""Images per class that are looked at, and at most kept."""


def find_starting_points(
    oracle: Oracle, images: ImageSource, classes: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Choose images that the victim answers with their own class.

    The victim is asked once for each, and again in smaller parts where it fails; these are rows of no attacked image.
    Images that cannot be read, or that the victim fails on alone, are left out.

    Args:
        oracle: Owns the victim.
        images: To choose from, in order.
        classes: Of the victim.
        device: Of the victim.

    Returns:
        Images (rows, C, H, W) and their classes (rows,).

    Raises:
        UserError: If a class has none.
        UnreadableImageError: If a file cannot be read and shall end the run.
    """
    tried = [(images.labels == number).nonzero()[:_TRIED, 0] for number in range(classes)]
    right: set[int] = set()
    for part in torch.cat(tried).split(oracle.batch_size):
        try:
            pixels, read = read_readable(images, part.tolist())
        except UnreadableImageError as error:
            error.leave_out()
            continue
        answers = _answers(oracle, unit_range(pixels.to(device))).cpu()
        right |= {position for position, same in zip(read, answers == images.labels[read], strict=True) if same}
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


def _answers(oracle: Oracle, pixels: Tensor) -> Tensor:
    """Return the class that the victim answers at each image, (rows,) int64, -1 where it fails."""
    clock = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
    try:
        return oracle.scores(pixels, clock, "criterion").argmax(1)
    except VictimError:
        if len(pixels) == 1:
            return torch.full_like(clock, -1)
        return torch.cat([_answers(oracle, half) for half in pixels.chunk(2)])

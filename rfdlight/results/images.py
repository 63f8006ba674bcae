"""The pixels of a few attacked images, for people to look at."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

FILE = "images.safetensors"
"""In a run directory: float32 tensors `clean` and `adversarial`, both (images, C, H, W) in [0, 1], and in the metadata
`ids`, the JSON list of their image ids."""


class KeptImages:
    """Keeps the clean pixels and the final points of some images of a run, and stores them.

    Args:
        ids: Of all images that the run attacks, in order.
        most: How many are kept, spread evenly over `ids`.

    Example:
        >>> KeptImages(["a", "b", "c", "d", "e"], most=2).chosen
        ['a', 'd']
    """

    def __init__(self, ids: list[str], most: int) -> None:
        self.chosen = ids[:: math.ceil(len(ids) / most)] if most and ids else []
        self._pixels: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, image_id: str, clean: Tensor, final: Tensor) -> None:
        """Take an image, (C, H, W) both, if it is one of the chosen."""
        if image_id in self.chosen:
            self._pixels[image_id] = clean.cpu().clone(), final.cpu().clone()

    def save(self, folder: Path) -> None:
        """Store the images that have come in a run directory's `FILE`, nothing if there are none."""
        ids = [image_id for image_id in self.chosen if image_id in self._pixels]
        if not ids:
            return
        clean, final = (torch.stack(images) for images in zip(*(self._pixels[key] for key in ids), strict=True))
        save_file({"clean": clean, "adversarial": final}, folder / FILE, {"ids": json.dumps(ids)})

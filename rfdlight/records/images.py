"""The pixels of a few attacked images, for people to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rfdlight._io import check_regular, parse_json, replacing
from rfdlight.errors import UserError, one_line

FILE = "images.safetensors"
"""In a run directory: float32 tensors `clean` and `adversarial`, both (images, C, H, W) in [0, 1], and in the metadata
`ids`, the JSON list of their image ids."""


class KeptImages:
    """Keeps the clean pixels and the final points of some images of a run, in a file, as they come.

    Args:
        ids: Of all images that the run attacks, in order.
        most: How many are kept, spread evenly over `ids`.
        path: The file, which is written when the first of them comes.

    Example:
        >>> KeptImages(["a", "b", "c", "d", "e"], most=2, path=Path("part.safetensors")).chosen
        ['a', 'c']
    """

    def __init__(self, ids: list[str], most: int, path: Path) -> None:
        count = min(most, len(ids))
        self.chosen = [ids[i * len(ids) // count] for i in range(count)]
        self._path = path
        self._pixels: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, image_id: str, clean: Tensor, final: Tensor) -> None:
        """Take an image, (C, H, W) both, if it is one of the chosen."""
        if image_id in self.chosen:
            self._pixels[image_id] = clean.cpu().clone(), final.cpu().clone()
            _save(self._pixels, self._path)


def gather(run: Path, parts: list[Path]) -> None:
    """Put what the processes of all attempts kept into the run's `FILE`, in order of id; the parts are then dropped.

    Raises:
        UserError: If it cannot be written.
    """
    pixels: dict[str, tuple[Tensor, Tensor]] = {}
    for path in [*parts, run / FILE]:
        pixels |= _stored(path)
    if parts and pixels:
        _save(dict(sorted(pixels.items())), run / FILE)
    for path in parts:
        path.unlink()


def _save(pixels: dict[str, tuple[Tensor, Tensor]], path: Path) -> None:
    clean, final = (torch.stack(images) for images in zip(*pixels.values(), strict=True))
    with replacing(path) as partial:
        save_file({"clean": clean, "adversarial": final}, partial, {"ids": json.dumps(list(pixels))})


def _stored(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the images of a file, none where it cannot be read: they are for people to look at, no result."""
    try:
        clean, adversarial, ids = read_images(path)
        pairs = zip(torch.from_numpy(clean), torch.from_numpy(adversarial), strict=True)
        return dict(zip(ids, pairs, strict=True))
    except (UserError, ValueError, TypeError):
        return {}


def read_images(path: Path) -> tuple[np.ndarray, np.ndarray, Any]:
    """Read a `FILE` and return its clean images, their final points and the ids, none of them checked.

    Raises:
        UserError: If it cannot be read, or lacks one of these.
    """
    try:
        check_regular(path)
        with safe_open(path, "numpy") as file:
            clean, adversarial = file.get_tensor("clean"), file.get_tensor("adversarial")
            return clean, adversarial, parse_json((file.metadata() or {})["ids"])
    except OSError as error:
        raise UserError(f"cannot read the images {path}: {error.strerror or one_line(error)}") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds no images of a run: expected clean, adversarial and ids, got: {one_line(error)}"
        ) from error

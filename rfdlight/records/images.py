"""Pixels of some attacked images, clean and adversarial, for a gallery."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rfdlight._io import check_regular, replacing
from rfdlight.errors import UserError, one_line
from rfdlight.records.journal import FOLDER
from rfdlight.records.schema import decode

FILE = "images.safetensors"
"""In a run directory: float32 tensors `clean` and `adversarial`, both (images, C, H, W) in [0, 1], and in the metadata
`ids`, the JSON list of their image ids."""


_PER_FILE = 16
"""Images in a file of one process."""


class KeptImages:
    """Keeps the clean pixels and the final points of some images of a run in files of a few images.

    Each image rewrites its file alone, so that a kill loses none and the cost per image does not grow.

    Args:
        ids: Ids of all images of the run, in order.
        most: Number of images to keep, spread evenly over `ids`.
        path: The first file, written with its first image; those that follow have a number in their names.

    Example:
        >>> KeptImages(["a", "b", "c", "d", "e"], most=2, path=Path("part.safetensors")).chosen
        ['a', 'c']
    """

    def __init__(self, ids: list[str], most: int, path: Path) -> None:
        count = min(most, len(ids))
        self.chosen = [ids[i * len(ids) // count] for i in range(count)]
        self._path = path
        self._groups = {name: position // _PER_FILE for position, name in enumerate(self.chosen)}
        self._pixels: dict[int, dict[str, tuple[Tensor, Tensor]]] = defaultdict(dict)

    def __call__(self, image_id: str, clean: Tensor, final: Tensor) -> None:
        """Keep an image, (C, H, W) both, if it is one of the chosen images."""
        group = self._groups.get(image_id)
        if group is None:
            return
        self._pixels[group][image_id] = clean.cpu().clone(), final.cpu().clone()
        _save(self._pixels[group], self._path.with_stem(f"{self._path.stem}-{group}") if group else self._path)


def part(run: Path, attempt: int, rank: int) -> Path:
    """Return the file for the images of one process of one attempt."""
    return run / FOLDER / f"images-{attempt}-{rank}.safetensors"


def gather(run: Path) -> None:
    """Move the images of the processes of all attempts into the run's `FILE`, in order of id.

    Raises:
        UserError: The file cannot be written.
    """
    parts = sorted((run / FOLDER).glob("images-*.safetensors"))
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
    """Return the images of a file, none of a file that cannot be read: no result depends on them."""
    try:
        clean, adversarial, ids = read_images(path)
        pairs = zip(torch.from_numpy(clean), torch.from_numpy(adversarial), strict=True)
        return dict(zip(ids, pairs, strict=True))
    except (UserError, ValueError, TypeError):
        return {}


def read_images(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read a `FILE` and return its clean images, final points and ids, whose sizes are not checked.

    Raises:
        UserError: The file cannot be read, or lacks one of these.
    """
    try:
        check_regular(path)
        with safe_open(path, "numpy") as file:
            clean, adversarial = file.get_tensor("clean"), file.get_tensor("adversarial")
            return clean, adversarial, decode((file.metadata() or {})["ids"].encode(), list[str])
    except OSError as error:
        raise UserError(f"cannot read the images {path}: {error.strerror or one_line(error)}") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds no images of a run: expected clean, adversarial and ids, got: {one_line(error)}"
        ) from error

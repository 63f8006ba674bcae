"""Pixels of some attacked images, clean and adversarial."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rfdlight._io import check_regular, replacing
from rfdlight.errors import UserError, expect, one_line
from rfdlight.records.schema import decode

FILE = "images.safetensors"
"""In a run directory: float32 tensors `clean` and `adversarial`, both (images, C, H, W) in [0, 1], and in the metadata
`ids`, the JSON list of their image ids."""


def chosen(ids: list[str], most: int) -> dict[str, int]:
    """Return at most so many ids, spread evenly over all, with their positions.

    Example:
        >>> chosen(["a", "b", "c", "d", "e"], most=2)
        {'a': 0, 'c': 2}
    """
    count = min(most, len(ids))
    positions = [i * len(ids) // count for i in range(count)]
    return {ids[position]: position for position in positions}


def save(path: Path, pixels: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write the clean pixels and the final points of images, (C, H, W) both, by id."""
    clean, final = (np.stack(images) for images in zip(*pixels.values(), strict=True))
    with replacing(path) as partial:
        save_file({"clean": clean, "adversarial": final}, partial, {"ids": json.dumps(list(pixels))})


def gather(run: Path, parts: list[Path]) -> None:
    """Move the images of several files into the run's `FILE`, in order of id; a damaged file counts as empty."""
    pixels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for path in [run / FILE, *parts]:
        try:
            clean, final, ids = read_images(path)
            pixels |= dict(zip(ids, zip(clean, final, strict=True), strict=True))
        except (UserError, ValueError, TypeError):  # no result depends on these pixels
            continue
    if parts and pixels:
        save(run / FILE, dict(sorted(pixels.items())))
    for path in parts:
        path.unlink()


def read_images(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read a `FILE` and return its clean images, final points and ids, whose sizes are not checked."""
    (clean, adversarial), ids = _read(path, "clean", "adversarial")
    return clean, adversarial, ids


def read_points(path: Path) -> dict[str, np.ndarray]:
    """Read the final points of a `FILE`, float32 (C, H, W) by image id; `clean` may be missing."""
    (points,), ids = _read(path, "adversarial")
    fits = points.ndim == 4 and len(points) == len(ids) == len(set(ids)) and points.dtype == np.float32
    got = f"{points.dtype} {points.shape} and {len(set(ids)):,} of them"
    expect(fits, str(path), "float32 points (images, C, H, W) with as many different ids", got)
    return dict(zip(ids, points, strict=True))


def _read(path: Path, *names: str) -> tuple[list[np.ndarray], list[str]]:
    """Read some tensors of a file, and its ids."""
    try:
        check_regular(path)
        with safe_open(path, "numpy") as file:
            tensors = [file.get_tensor(name) for name in names]
            return tensors, decode((file.metadata() or {})["ids"].encode(), list[str])
    except OSError as error:
        raise UserError(f"cannot read the images {path}: {error.strerror or one_line(error)}") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds no images of a run: expected {', '.join(names)} and ids, got: {one_line(error)}"
        ) from error

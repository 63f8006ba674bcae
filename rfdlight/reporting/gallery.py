"""The attacked images that a run kept, as pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rfdlight.errors import UserError
from rfdlight.records.images import FILE, read_images
from rfdlight.records.records import Record
from rfdlight.records.runs import Run

MOST = 6
"""Images shown of each run."""

_COLOURS = (1, 3)
"""Numbers of channels that a picture shows as they are: grey, or red, green and blue."""


@dataclass(frozen=True)
class Example:
    """An attacked image: its record, three pictures as PNG files, and by how much the difference is magnified.

    Attributes:
        record: Of the image.
        clean: The clean image.
        adversarial: The final point.
        difference: Their difference around grey.
        factor: By which the difference is magnified; None where nothing was changed.
        channels: Of the image. Two are shown as their mean in grey, of four or more the first three as colours.
    """

    record: Record
    clean: bytes
    adversarial: bytes
    difference: bytes
    factor: float | None
    channels: int


def channels_note(channels: int) -> str:
    """Return how pictures show images that are neither grey nor red, green and blue; empty for others."""
    if channels in _COLOURS:
        return ""
    if channels == 2:
        return "Pictures show the mean of the 2 channels in grey."
    return f"Pictures show the first 3 of {channels} channels as red, green and blue."


def examples(run: Run) -> list[Example]:
    """Return the first images that a run kept, in the order of its file; none if it kept none.

    The difference is shown around grey. In an linf ball it is magnified so that a change by the radius is black or
    white. In an l2 ball, whose radius bounds no pixel closely, the largest change of each image is.

    Raises:
        UserError: If the file is damaged, or is not of this run.
    """
    path = None if run.folder is None else run.folder / FILE
    if path is None or not path.exists():
        return []
    clean, adversarial, ids = _checked(path)
    unknown = [name for name in ids if name not in run.by_id]
    if unknown:
        raise UserError(f"{path} holds the image {unknown[0]!r:.80}, which the run has no record of")
    found = []
    for before, after, name in list(zip(clean, adversarial, ids, strict=True))[:MOST]:
        change = after.astype(np.float64) - before
        largest = float(np.abs(change).max())
        reach = float(run.facts.eps) if run.facts.norm == "linf" else largest
        factor = 0.5 / reach if largest > 0 and reach > 0 else None
        difference = np.clip(0.5 + change * (factor or 0.0), 0, 1)
        found.append(Example(run.by_id[name], _png(before), _png(after), _png(difference), factor, len(before)))
    return found


def _checked(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    clean, adversarial, ids = read_images(path)
    shape = clean.shape
    if len(shape) != 4 or adversarial.shape != shape or 0 in shape[1:]:
        raise UserError(
            f"{path}: expected clean and adversarial of one shape (images, channels, height, width), "
            f"got {shape} and {adversarial.shape}"
        )
    if clean.dtype != np.float32 or adversarial.dtype != np.float32:
        raise UserError(f"{path}: expected clean and adversarial as float32, got {clean.dtype} and {adversarial.dtype}")
    if not isinstance(ids, list) or len(ids) != shape[0] or not all(isinstance(name, str) for name in ids):
        raise UserError(f"{path}: expected a list of {shape[0]} ids, got {ids!r:.60}")
    for name, pixels in (("clean", clean), ("adversarial", adversarial)):
        if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):
            raise UserError(f"{path}: the pixels of {name} are not within [0, 1]")
    return clean, adversarial, ids


def _png(pixels: np.ndarray) -> bytes:
    """Return an image, (C, H, W) in [0, 1], as the bytes of a PNG file of 8 bits a channel."""
    if len(pixels) not in _COLOURS:
        pixels = pixels.mean(0, keepdims=True) if len(pixels) == 2 else pixels[:3]
    levels = np.rint(255 * pixels.astype(np.float64)).astype(np.uint8)
    image = Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, 2))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()

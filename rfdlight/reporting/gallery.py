"""Pictures of the attacked images that a run kept."""

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
from rfdlight.reporting.tables import number

MOST = 6
"""Images of each run, at most."""

_COLOURS = (1, 3)
"""Numbers of channels of a picture: grey, or red, green and blue."""


@dataclass(frozen=True)
class Example:
    """An attacked image.

    Attributes:
        id: Of the image.
        outcome: The verdict on the image.
        caption: Label, target and predictions before and after the attack, queries, and the size of the change.
        pictures: PNG files by name: the clean image, the final point, and their difference around grey.
        channels_note: How the pictures show images that are neither grey nor red, green and blue; empty for others.
    """

    id: str
    outcome: str
    caption: str
    pictures: dict[str, bytes]
    channels_note: str


def examples(run: Run) -> list[Example]:
    """Return the first images that a run kept, in the order of its file; none if it kept none.

    In an linf ball, a change by eps is black or white in the difference. In an l2 ball, where eps bounds no single
    pixel closely, the largest change of each image is.

    Raises:
        UserError: If the file is damaged, or belongs to another run.
    """
    if run.folder is None or not (run.folder / FILE).exists():
        return []
    path = run.folder / FILE
    clean, adversarial, ids = _checked(path)
    unknown = [name for name in ids if name not in run.by_id]
    if unknown:
        raise UserError(f"{path}: expected images of the run, got {unknown[0]!r:.80}, which has no record")
    found = []
    for before, after, name in list(zip(clean, adversarial, ids, strict=True))[:MOST]:
        record = run.by_id[name]
        change = after.astype(np.float64) - before
        largest = float(np.abs(change).max())
        reach = float(run.facts.eps) if run.facts.norm == "linf" else largest
        factor = 0.5 / reach if largest > 0 and reach > 0 else 0.0
        difference = f"difference, times {number(factor, 3)}" if factor else "unchanged"
        pixels = {"clean": before, "attacked": after, difference: np.clip(0.5 + change * factor, 0, 1)}
        pictures = {name: _png(image) for name, image in pixels.items()}
        outcome = record.verdict if record.clean_correct else "misclassified before the attack"
        caption = _caption(record, run.facts.classes or [])
        found.append(Example(name, outcome, caption, pictures, _channels_note(len(before))))
    return found


def _caption(record: Record, classes: list[str]) -> str:
    indices = {
        "label": record.label,
        "target": record.target,
        "predicted": record.clean_prediction,
        "after the attack": record.final_prediction,
    }
    named = [
        f"{what} {index} {classes[index]}" if index < len(classes) else f"{what} {index}"
        for what, index in indices.items()
        if index is not None
    ]
    size = f"linf {number(record.linf, 3)}, l2 {number(record.l2, 3)}"
    return f"{', '.join(named)}; {record.billed:,} queries; {size}"


def _channels_note(channels: int) -> str:
    if channels == 2:
        return "Pictures show the mean of the 2 channels in grey."
    return "" if channels in _COLOURS else f"Pictures show the first 3 of {channels} channels as red, green and blue."


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
            raise UserError(f"{path}: expected pixels of {name} within [0, 1], got others")
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

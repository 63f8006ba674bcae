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


@dataclass(frozen=True)
class Example:
    """An attacked image: its id, verdict, numbers, and PNG files by name: clean, attacked, difference around grey."""

    id: str
    outcome: str
    caption: str
    pictures: dict[str, bytes]


def examples(run: Run) -> list[Example]:
    """Return the first images that a run kept, none if it kept none.

    In an linf ball, a change by eps is black or white in the difference; in an l2 ball, the largest change of an image.
    """
    if run.folder is None or not (run.folder / FILE).exists():
        return []
    clean, adversarial, ids = _checked(run, run.folder / FILE)
    found = []
    for before, after, name in list(zip(clean, adversarial, ids, strict=True))[:MOST]:
        record = run.by_id[name]
        outcome = "misclassified before the attack" if record.verdict == "misclassified" else record.verdict
        pictures = _pictures(before, after, float(run.facts.eps) if run.facts.norm == "linf" else None)
        found.append(Example(name, outcome, _caption(record, run.facts.classes or []), pictures))
    return found


def _checked(run: Run, path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    clean, adversarial, ids = read_images(path)
    fits = clean.ndim == 4 and 0 not in clean.shape[1:] and clean.shape == adversarial.shape
    if not fits or len(ids) != len(clean) or not run.by_id.keys() >= set(ids):
        raise UserError(
            f"{path}: expected clean and adversarial of one shape (images, channels, height, width) and an id of the "
            f"run for each image, got {clean.shape} and {adversarial.shape} with {len(ids)} ids"
        )
    return clean, adversarial, ids


def _pictures(before: np.ndarray, after: np.ndarray, eps: float | None) -> dict[str, bytes]:
    change = after.astype(np.float64) - before
    largest = float(np.abs(change).max())
    factor = 0.5 / (eps or largest) if largest > 0 else 0.0
    difference = f"difference, times {number(factor, 3)}" if factor else "unchanged"
    pixels = {"clean": before, "attacked": after, difference: 0.5 + change * factor}
    return {name: _png(image) for name, image in pixels.items()}


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


def _png(pixels: np.ndarray) -> bytes:
    """Return an image, (C, H, W) in [0, 1], as a PNG file: 3 channels in colour, others as their mean in grey."""
    channels = pixels if len(pixels) == 3 else pixels.mean(0, keepdims=True)
    levels = np.rint(255 * np.clip(channels.astype(np.float64), 0, 1)).astype(np.uint8)
    image = Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, 2))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()

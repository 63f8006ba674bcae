"""Conversion of a user's data, such as the result of `ImageData.load`, to images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from rfdlight.core.user_code import described
from rfdlight.data.conversion import as_ids, as_labels, as_pixels, as_tensor, joined, kind_of
from rfdlight.data.sources import Images, ImageSource
from rfdlight.errors import UserError

_FORMS = "(images, labels), (images, labels, ids), or an iterable of (image, label) or (image, label, id)"


def as_source(data: Any, prefix: str, classes: int | None, channels: int | None, notes: list[str]) -> ImageSource:
    """Convert data to an image source whose labels, ids and pixels are checked.

    Args:
        data: An `ImageSource`; (x, y) or (x, y, ids) with x (N, C, H, W); or an iterable, such as a dataset or a
            loader, of such batches, or of items with x (C, H, W) and a number y. See `rfdlight.data.conversion` for
            the forms of x, y and ids.
        prefix: Start of the ids "<prefix>/00000" that are made of positions if there are none.
        classes: Number of classes, if known.
        channels: Number of channels, if known.
        notes: One sentence about each conversion is appended.

    Raises:
        UserError: If the data has another form, or different numbers of x, y and ids; if a label lies outside the
            classes, or two images have the same id.
    """
    images = data if isinstance(data, ImageSource) else Images(*_columns(data, channels))
    changed: dict[str, Any] = {}
    if isinstance(images, Images):
        changed["pixels"] = as_pixels(images.pixels, channels, notes)
    count = len(changed.get("pixels", images.ids))
    changed["labels"] = labels = as_labels(images.labels, classes, notes)
    if images.ids is None:
        notes.append("ids are made of the images' positions")
        changed["ids"] = ids = [f"{prefix}/{position:05d}" for position in range(count)]
    else:
        changed["ids"] = ids = as_ids(images.ids, notes)
    if not count == len(labels) == len(ids):
        raise UserError(
            f"expected as many labels and ids as images, got {count:,} pixels, {len(labels):,} labels and "
            f"{len(ids):,} ids"
        )
    if count == 0:
        raise UserError("expected at least one image, got none")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        hint = "; labels count from 0: subtract 1" if (low, high) == (1, classes) else ""
        last = "" if classes is None else f" to {classes - 1}"
        raise UserError(f"labels: expected class indices from 0{last}, got the label {low if low < 0 else high}{hint}")
    if len(set(ids)) < len(ids):
        (repeated, copies), *_ = Counter(ids).most_common(1)
        raise UserError(f"ids: expected an id of its own for every image, got {repeated} {copies} times; rename them")
    return replace(images, **changed)  # type: ignore[type-var]


def _columns(data: Any, channels: int | None) -> tuple[Any, Any, Any]:
    """Return all images, labels and ids; None for ids if there are none."""
    first = data[0] if isinstance(data, tuple | list) and len(data) in (2, 3) else None
    if isinstance(first, Tensor | np.ndarray) or (isinstance(data, tuple) and isinstance(first, list)):
        return data[0], data[1], data[2] if len(data) == 3 else None
    images: list[Tensor] = []
    labels: list[Tensor] = []
    ids: list[Any] = []
    for part in _parts(data):
        if not isinstance(part, tuple | list) or len(part) not in (2, 3):
            raise UserError(f"expected {_FORMS}, got {kind_of(part)}")
        image, label = as_tensor("pixels", part[0], channels or 3), as_tensor("labels", part[1])
        single = image.ndim == 3
        images.append(image[None] if single else image)
        labels.append(label[None] if single else label)
        if len(part) == 3:
            ids += [part[2]] if single or isinstance(part[2], str | int) else part[2]
    if not images:
        raise UserError("expected at least one image, got none")
    if not ids and isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler):
        raise UserError("expected ids or a fixed order, got a loader that shuffles; give loader.dataset")
    return joined("pixels", images), joined("labels", labels), ids or None


def _parts(data: Any) -> Iterator[Any]:
    """Yield the items of a map-style dataset, whose first item must not be random, or of another iterable."""
    try:
        if not hasattr(data, "__getitem__") or isinstance(data, IterableDataset):
            yield from data
            return
        for position in range(len(data)):
            item = data[position]
            again = data[0] if position == 0 and isinstance(item, tuple | list) else item
            if again is not item and not np.array_equal(np.asarray(item[0]), np.asarray(again[0])):
                raise UserError("image 0 differs when it is read again; leave random transforms out of test images")
            yield item
    except UserError:
        raise
    except Exception as error:  # a user's own code may raise anything
        raise UserError(f"expected {_FORMS}, got {kind_of(data)}, which raised {described(error)}") from error

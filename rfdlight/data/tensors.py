"""Images in memory from tensors, data loaders and iterables, for the Python API."""

from __future__ import annotations

import logging
from typing import Any

from rfdlight.data.loading import as_source
from rfdlight.data.sources import Images
from rfdlight.errors import UserError


def images_from(data: Any, classes: int | None = None) -> Images:
    """Convert tensors, a DataLoader or another iterable to images in memory.

    Args:
        data: (x, y) or (x, y, ids) with x (N, C, H, W); or an iterable of such batches, or of items with x (C, H, W)
            and a number y. x is uint8 from 0 to 255 or floats in [0, 1], y class indices or one-hot rows; arrays and
            Pillow images are converted.
        classes: Number of classes, if known.

    Returns:
        Pixels uint8 or float32 in [0, 1]; without ids in `data`, the ids are "image/00000", "image/00001", ...

    Raises:
        UserError: Begins with "data:".

    Example:
        >>> import torch
        >>> images_from((torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))).ids
        ['image/00000', 'image/00001']
    """
    notes: list[str] = []
    try:
        images = as_source(data, "image", classes, None, notes)
    except UserError as error:
        raise UserError(f"data: {error}") from error
    if not isinstance(images, Images):
        images = Images(images.read(list(range(len(images)))), images.labels, images.ids)
    for note in notes:
        logging.getLogger("rfdlight").info("data: %s", note)
    return images

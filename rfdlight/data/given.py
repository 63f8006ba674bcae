"""Images that a caller gives, as a data module."""

from __future__ import annotations

from typing import Any, Literal

from rfdlight.data.base import ImageData
from rfdlight.data.conversion import as_source
from rfdlight.data.sources import Images, ImageSource
from rfdlight.errors import UserError


class GivenImages(ImageData):
    """A data module over given images, all of which are attacked, resized as their source resizes them."""

    name = "images"

    def __init__(self, source: ImageSource, num_classes: int) -> None:
        super().__init__(num_images=len(source), selection="first")
        channels = source.read([0]).shape[1] if len(source) else 0
        self.num_classes = num_classes
        self.mean, self.std = (0.0,) * channels, (1.0,) * channels
        self._victim_preparation = source.preparation  # without which `images` takes the source's own away
        self._source = source

    def _converted(self, split: Literal["train", "test"]) -> ImageSource:
        return self._source  # checked where it was given

    def describe(self) -> str:
        return self.name


def images_from(data: Any, classes: int | None = None) -> Images:
    """Convert tensors, arrays, a DataLoader or another iterable to images in memory; see `as_source` for the forms.

    Example:
        >>> import torch
        >>> images_from((torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))).ids
        ['image/00000', 'image/00001']
    """
    try:
        images = as_source(data, "image", classes, None)
    except UserError as error:
        raise UserError(f"data: {error}") from error
    if not isinstance(images, Images):
        images = Images(images.read(list(range(len(images)))), images.labels, images.ids)
    return images

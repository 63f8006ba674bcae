"""Images that a caller holds already, as a data module."""

from __future__ import annotations

from typing import Literal

from rfdlight.data.base import ImageData
from rfdlight.data.sources import ImageSource


class GivenImages(ImageData):
    """A data module over images that are given as an `ImageSource`; all of them are attacked.

    Args:
        source: The images.
        num_classes: Number of classes of the labels.
        name: Of the data set, for records and reports.
    """

    def __init__(self, source: ImageSource, num_classes: int, name: str = "images") -> None:
        super().__init__(num_images=len(source), selection="first")
        channels = source.read([0]).shape[1] if len(source) else 0
        self.name = name
        self.num_classes = num_classes
        self.mean, self.std = (0.0,) * channels, (1.0,) * channels
        self._source = source

    def _converted(self, split: Literal["train", "test"]) -> ImageSource:
        return self._source  # checked where it was given

    def describe(self) -> str:
        return self.name

"""The images of a split: in memory, or in files that are decoded when they are needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from rich.text import Text
from torch import Tensor

from rfdlight._io import plain_console
from rfdlight.data.decoding import decode, read_bytes
from rfdlight.data.preparation import Preparation
from rfdlight.errors import UserError, shown

Transform = Callable[[Tensor], Tensor]
"""Maps pixels (rows, C, H, W), uint8 or floats in [0, 1], to pixels of the same dtype."""

Unreadable = Literal["quarantine", "skip", "refuse"]
"""Policy for an unreadable file: count it as a failed image, replace it by another image, or end the run."""


class UnreadableImageError(UserError):
    """The image at a position of a split cannot be read; `refused` says whether the policy ends the run."""

    _printed: ClassVar[set[str]] = set()

    def __init__(self, position: int, policy: Unreadable, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.refused = policy == "refuse"

    def leave_out(self) -> None:
        """Print once per process that the image is left out, or raise this error if the policy is "refuse"."""
        if self.refused:
            raise self
        if str(self) not in self._printed:
            self._printed.add(str(self))
            plain_console(stderr=True).print(Text(shown(f"rfdlight: {self}; left out")), soft_wrap=True)


class ImageSource(ABC):
    """Base class of the images of a split; a subclass is a frozen dataclass.

    Attributes:
        labels: (N,) int64.
        ids: N unique names, `<dataset>/<split>/<file name>`.
        preparation: Resizes images when they are read.
        unreadable: Policy for images that cannot be read.
    """

    labels: Tensor
    ids: list[str]
    preparation: Preparation | None
    unreadable: Unreadable = "quarantine"

    def __len__(self) -> int:
        return len(self.ids)

    def prepared(self, preparation: Preparation | None) -> Self:
        """Return the same images, resized by `preparation` when they are read."""
        return replace(self, preparation=preparation)  # type: ignore[type-var]

    @abstractmethod
    def take(self, positions: list[int]) -> Self:
        """Return the images at `positions`, in that order."""

    @abstractmethod
    def read(self, positions: list[int], augment: Transform | None = None) -> Tensor:
        """Return pixels (rows, C, H, W), uint8 or float32 in [0, 1], changed by `augment` if given."""

    def error_at(self, position: int) -> UnreadableImageError | None:
        """Return why an image cannot be read, or None if it can."""
        return None


@dataclass(frozen=True)
class Images(ImageSource):
    """A split in memory, see `ImageSource`."""

    pixels: Tensor
    """(N, C, H, W), uint8 from 0 to 255 or float32 in [0, 1]."""
    labels: Tensor
    ids: list[str]
    preparation: Preparation | None = None

    def take(self, positions: list[int]) -> Self:
        ids = [self.ids[position] for position in positions]
        return replace(self, pixels=self.pixels[positions], labels=self.labels[positions], ids=ids)

    def read(self, positions: list[int], augment: Transform | None = None) -> Tensor:
        """Return pixels of the stored dtype; `augment` comes before the preparation."""
        pixels = self.pixels[positions]
        if augment is not None:
            pixels = augment(pixels)
        return pixels if self.preparation is None else self.preparation(pixels)


@dataclass(frozen=True)
class ImageFiles(ImageSource):
    """A split in N files, of which none is kept in memory, see `ImageSource`; read as RGB, or grey of 1 channel."""

    paths: list[Path]
    labels: Tensor
    ids: list[str]
    unreadable: Unreadable = "refuse"
    preparation: Preparation | None = None
    channels: int = 3

    def take(self, positions: list[int]) -> Self:
        paths = [self.paths[position] for position in positions]
        ids = [self.ids[position] for position in positions]
        return replace(self, paths=paths, labels=self.labels[positions], ids=ids)

    def read(self, positions: list[int], augment: Transform | None = None) -> Tensor:
        """Return pixels (rows, channels, H, W) uint8; `augment` replaces the preparation."""
        change = augment or self.preparation
        images = [change(self._decode(position)) if change else self._decode(position) for position in positions]
        sizes = {tuple(image.shape[1:]) for image in images}
        if len(sizes) > 1:
            raise UserError(f"the images have several sizes, such as {min(sizes)} and {max(sizes)}: give --data.size")
        return torch.stack(images)

    def error_at(self, position: int) -> UnreadableImageError | None:
        try:
            self._decode(position)
        except UnreadableImageError as error:
            return error
        return None

    def _decode(self, position: int) -> Tensor:
        path = self.paths[position]
        try:
            return decode(path, read_bytes(path), self.channels)
        except UserError as error:
            raise UnreadableImageError(position, self.unreadable, str(error)) from error


def read_readable(
    images: ImageSource, positions: list[int], augment: Transform | None = None
) -> tuple[Tensor, list[int]]:
    """Return the pixels and the positions of the images that can be read; the others are left out with a message.

    If no image can be read, or the policy is "refuse", the UnreadableImageError is raised.
    """
    while True:
        try:
            return images.read(positions, augment), positions
        except UnreadableImageError as error:
            rest = [position for position in positions if position != error.position]
            if not rest:
                raise
            error.leave_out()
            positions = rest

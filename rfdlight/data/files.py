"""Images that are read from their files when they are needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2.functional import InterpolationMode

from rfdlight.data.base import ImageData, Transform, UnreadableImageError
from rfdlight.data.decoding import decode, read_bytes
from rfdlight.data.listing import ClassOrder
from rfdlight.data.preparation import Preparation, Size
from rfdlight.errors import UserError

Unreadable = Literal["quarantine", "skip", "refuse"]


@dataclass(frozen=True)
class ImageFiles:
    """A split in files, of which none is kept in memory.

    Attributes:
        paths: N files.
        labels: (N,) int64.
        ids: N unique names.
        unreadable: Whether a file that cannot be read ends the run ("refuse") or is left out.
        preparation: Brings images to a size as they are read.
        channels: 3 for RGB, 1 for grey.
    """

    paths: list[Path]
    labels: Tensor
    ids: list[str]
    unreadable: Unreadable = "refuse"
    preparation: Preparation | None = None
    channels: int = 3

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: list[int]) -> ImageFiles:
        """Return the images at `positions`, in that order."""
        return replace(
            self,
            paths=[self.paths[position] for position in positions],
            labels=self.labels[positions],
            ids=[self.ids[position] for position in positions],
        )

    def prepared(self, preparation: Preparation | None) -> ImageFiles:
        """Return the same images, brought to a size as they are read."""
        return replace(self, preparation=preparation)

    def read(self, positions: list[int], augment: Transform | None = None) -> Tensor:
        """Return the pixels of some images, (rows, channels, H, W) uint8; `augment` takes the place of the preparation.

        Raises:
            UnreadableImageError: At the first file that cannot be read.
            UserError: If the images have several sizes and nothing brings them to one.
        """
        change = augment or self.preparation
        images = [change(self._decode(position)) if change else self._decode(position) for position in positions]
        sizes = {tuple(image.shape[1:]) for image in images}
        if len(sizes) > 1:
            raise UserError(f"the images have several sizes, such as {min(sizes)} and {max(sizes)}: give --data.size")
        return torch.stack(images)

    def _decode(self, position: int) -> Tensor:
        path = self.paths[position]
        try:
            return decode(path, read_bytes(path), self.channels)
        except UserError as error:
            raise UnreadableImageError(position, self.unreadable == "refuse", str(error)) from error

    def find_unreadable(self, positions: list[int]) -> dict[int, UnreadableImageError]:
        """Return what is wrong with those of the positions whose files cannot be read.

        Raises:
            UnreadableImageError: At the first of them, if that shall end the run.
        """
        found = {}
        for position in positions:
            try:
                self._decode(position)
            except UnreadableImageError as error:
                if error.refused:
                    raise
                found[position] = error
        return found


class FileData(ImageData):
    """Base of the data modules that read images from files, batch by batch.

    Training images are cropped at random, to between 8 % and all of their area, and half of them mirrored: Szegedy and
    others, Going Deeper with Convolutions, CVPR 2015, section 6.

    Args:
        num_images: How many test images are attacked; by default 1000, or all of fewer.
        selection: How they are chosen; see `rfdlight.data.subset.select`.
        seed: Of that choice.
        batch_size: Images per training batch.
        size: Height and width in pixels, or one number for both; by default what the victim asks for.
        validation: Training images held out of the training, equally many of each class.
        unreadable: What becomes of a file that cannot be read. In a test, it counts as an image that failed
            ("quarantine"), is told and another image takes its place ("skip"), or ends the run before the first query
            ("refuse"). In training, the latter ends it too; else the file is told and left out.
        workers: Processes that read batches ahead.
        class_order: How class folders are sorted, which makes their labels: as "text" (1, 10, 2), as torchvision does,
            or "natural", with numbers by value and without regard to case (1, 2, 10), as timm does.

    Raises:
        UserError: If a number is out of range.
    """

    has_native_size = False
    unrelated = ImageData.unrelated | {"workers"}

    def __init__(
        self,
        num_images: int | None,
        selection: Literal["balanced", "first", "random"],
        seed: int,
        batch_size: int,
        size: Size | None,
        validation: int,
        unreadable: Unreadable,
        workers: int,
        class_order: ClassOrder,
    ) -> None:
        super().__init__(num_images, selection, seed, batch_size, size, validation)
        if workers < 0:
            raise UserError(f"data.workers must be at least 0, got {workers}")
        self.unreadable = unreadable
        self.workers = workers
        self.class_order = class_order
        self._readable: list[int] | None = None

    def augment(self, pixels: Tensor) -> Tensor:
        """Crop an image at random to the size of the preparation, and mirror it with probability one half."""
        preparation = self.preparation
        size = [min(pixels.shape[-2:])] * 2 if preparation is None else list(preparation.height_width)
        interpolation = "bilinear" if preparation is None else preparation.interpolation
        cropped = RandomResizedCrop(size, interpolation=InterpolationMode(interpolation), antialias=True)(pixels)
        return cropped.flip(-1) if torch.rand(()) < 0.5 else cropped

    @property
    def unreadable_images(self) -> dict[str, str]:
        """What is wrong with each of the images asked for that cannot be read, by its id; none if others replace it."""
        self._positions()
        return self._unreadable if self.unreadable == "quarantine" else {}

    def _positions(self) -> list[int]:
        """Choose the attacked images, and find out which files of them cannot be read."""
        if self._readable is None:
            test = self.images("test")
            assert isinstance(test, ImageFiles)
            found: dict[int, UnreadableImageError] = {}

            def readable(position: int) -> bool:
                found.update(test.find_unreadable([position]))
                if self.unreadable == "skip" and position in found:
                    found[position].tell_once()
                return position not in found

            if self.unreadable == "skip":
                self._readable = self._select(readable)
            else:
                asked = self._select()
                self._readable = [position for position in asked if readable(position)]
                if not self._readable:
                    raise found[asked[0]]
            self._unreadable = {test.ids[position]: str(error) for position, error in found.items()}
        return self._readable

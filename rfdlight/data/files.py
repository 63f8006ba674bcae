"""Base class of the data modules that decode image files batch by batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2.functional import InterpolationMode

from rfdlight.data.base import ImageData
from rfdlight.data.listing import ClassOrder, list_images, order_remarks
from rfdlight.data.sources import ImageFiles
from rfdlight.data.unreadable import Unreadable
from rfdlight.errors import UserError


class FileData(ImageData):
    """Base class of the data modules that decode image files batch by batch.

    Training images are cropped at random, to between 8 % and all of their area, and half of them mirrored: Szegedy and
    others, Going Deeper with Convolutions, CVPR 2015, section 6.

    Args:
        unreadable: Policy for a file that cannot be read. In a test, the image counts as failed ("quarantine"), is
            named and replaced by another image ("skip"), or ends the run before the first query ("refuse"). In
            training, "refuse" ends the run; otherwise the file is named and left out.
        workers: Processes that read batches ahead.
        class_order: Order of the class folders, which makes the labels: "text" (1, 10, 2), as in torchvision, or
            "natural", with numbers by value and without regard to case (1, 2, 10), as in timm.
        options: `num_images`, `selection`, `seed`, `batch_size`, `size` and `validation`, see `ImageData`.

    Raises:
        UserError: If a number is out of range.
    """

    has_native_size = False
    unrelated = ImageData.unrelated | {"root", "workers"}

    def __init__(
        self,
        unreadable: Unreadable = "quarantine",
        workers: int = 0,
        class_order: ClassOrder = "text",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if workers < 0:
            raise UserError(f"data.workers must be at least 0, got {workers}")
        self.unreadable: Unreadable = unreadable
        self.workers = workers
        self.class_order: ClassOrder = class_order

    def augment(self, pixels: Tensor) -> Tensor:
        """Crop an image at random to the size of the preparation, and mirror it with probability one half."""
        preparation = self.preparation
        size = [min(pixels.shape[-2:])] * 2 if preparation is None else list(preparation.height_width)
        interpolation = "bilinear" if preparation is None else preparation.interpolation
        cropped = RandomResizedCrop(size, interpolation=InterpolationMode(interpolation), antialias=True)(pixels)
        return cropped.flip(-1) if torch.rand(()) < 0.5 else cropped

    def listed(self, folder: Path, classes: list[str], prefix: str, nested: bool, channels: int = 3) -> ImageFiles:
        """List the files of a split, and note the order of the classes and the files that are left out.

        Args:
            folder: Has one folder per class.
            classes: Names of the class folders, in the order of their labels.
            prefix: Start of the ids.
            nested: Whether the ids hold the path below `folder`, or only the file name.
            channels: 3 for RGB, 1 for grey.
        """
        listing = list_images(folder, classes)
        for remark in [*order_remarks(classes, self.class_order), *listing.remarks]:
            self.note(remark)
        names = listing.names() if nested else [path.name for path in listing.paths]
        ids = [f"{prefix}/{name}" for name in names]
        return ImageFiles(listing.paths, torch.tensor(listing.labels), ids, self.unreadable, channels=channels)

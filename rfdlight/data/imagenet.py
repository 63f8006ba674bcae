"""ImageNet, from its usual folders."""

from __future__ import annotations

import os
from typing import Literal

import torch

from rfdlight._io import expanded
from rfdlight.data.files import FileData, ImageFiles, Unreadable
from rfdlight.data.folder import IMAGENET_MEAN, IMAGENET_STD
from rfdlight.data.listing import ClassOrder, class_folders, list_images, order_remarks
from rfdlight.data.preparation import Size
from rfdlight.errors import UserError


class ImageNet(FileData):
    """ImageNet of 2012: 1000 classes, 1.28 million training images; the 50,000 for validation are the test images.

    The data root holds `val/<class>/*` and, for `fit`, `train/<class>/*`, with one folder per class, named by its
    WordNet id ("n01440764") or in any other way whose order is that of the labels. Files are read batch by batch.

    Source: Russakovsky and others, ImageNet Large Scale Visual Recognition Challenge, IJCV 2015.

    Args:
        root: The data root; by default the environment variable RFDLIGHT_IMAGENET.
        num_images: How many validation images are attacked; by default 1000, one per class.
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
        UserError: If there are no such folders, or a number is out of range.
    """

    name = "imagenet"
    num_classes = 1000
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    default_victim = "timm:resnet50"
    reference_eps = 0.05
    unrelated = FileData.unrelated | {"root"}

    def __init__(
        self,
        root: str | None = None,
        num_images: int | None = None,
        selection: Literal["balanced", "first", "random"] = "balanced",
        seed: int = 0,
        batch_size: int = 128,
        size: Size | None = None,
        validation: int = 0,
        unreadable: Unreadable = "quarantine",
        workers: int = 0,
        class_order: ClassOrder = "text",
    ) -> None:
        super().__init__(num_images, selection, seed, batch_size, size, validation, unreadable, workers, class_order)
        self.root = root

    def load(self, split: Literal["train", "test"]) -> ImageFiles:
        """List the files of a split; an image's id is `imagenet/val/<file name>` or `imagenet/train/<file name>`."""
        named = self.root or os.environ.get("RFDLIGHT_IMAGENET")
        if not named:
            raise UserError("imagenet needs a data root: give --data.root FOLDER or set RFDLIGHT_IMAGENET")
        part = "val" if split == "test" else "train"
        folder = expanded(named) / part
        classes = class_folders(folder, self.class_order)
        if len(classes) != self.num_classes:
            raise UserError(
                f"expected the 1000 class folders of ImageNet in {folder}, found {len(classes)}; "
                "other sets of classes are for --data folder"
            )
        listing = list_images(folder, classes)
        for remark in [*order_remarks(classes, self.class_order), *listing.remarks]:
            self.note(remark)
        ids = [f"imagenet/{part}/{path.name}" for path in listing.paths]
        return ImageFiles(listing.paths, torch.tensor(listing.labels), ids, self.unreadable)

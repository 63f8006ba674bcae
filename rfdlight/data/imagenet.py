"""ImageNet, from its usual folders."""

from __future__ import annotations

import os
from typing import Any, Literal

from rfdlight._io import expanded
from rfdlight.data.files import FileData, class_folders
from rfdlight.data.folder import IMAGENET_MEAN, IMAGENET_STD
from rfdlight.data.sources import ImageFiles
from rfdlight.errors import UserError


class ImageNet(FileData):
    """ImageNet of 2012: 1000 classes, 1.28 million training images; the 50,000 for validation are the test images.

    The data root holds `val/<class>/*` and, for `fit`, `train/<class>/*`, with one folder per class, named by its
    WordNet id ("n01440764") or in any other way whose order is that of the labels. Files are read batch by batch. By
    default 1000 images are attacked, one per class.

    Source: Russakovsky and others, ImageNet Large Scale Visual Recognition Challenge, IJCV 2015.

    Args:
        root: The data root; by default the environment variable RFDLIGHT_IMAGENET.
        options: `unreadable`, `workers` and `class_order`, see `FileData`, and those of `ImageData`.

    Raises:
        UserError: If there are no such folders, or a number is out of range.
    """

    name = "imagenet"
    num_classes = 1000
    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    default_victim = "timm:resnet50"
    reference_eps = 0.05

    def __init__(self, root: str | None = None, **options: Any) -> None:
        super().__init__(**options)
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
        return self.listed(folder, classes, f"imagenet/{part}", nested=False)

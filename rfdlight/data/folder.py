"""Any folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rfdlight._io import expanded
from rfdlight.core.arguments import text_of
from rfdlight.data.conversion import check_normalisation
from rfdlight.data.files import FileData, class_folders
from rfdlight.data.sources import ImageFiles
from rfdlight.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_GREY_MEAN = (0.449,)
_GREY_STD = (0.226,)
"""Means of ImageNet's three channels."""

_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "eval", "dev"}
"""Names, in lower case, of folders that are splits and no classes."""


class ImageFolder(FileData):
    """A folder of images of any size: `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`).

    The classes are the folders of `train` in the order of `class_order`, or those of the test split where there is no
    `train`, which only `fit` needs. A root without these splits, `<class>/*`, is a test split. Images in folders within
    a class folder count for the class. PNG, JPEG, WebP and BMP files are read, batch by batch.

    Args:
        root: The folder.
        mean: Per channel, in pixel units; by default those of ImageNet.
        std: Per channel, in pixel units; by default those of ImageNet.
        channels: 3 reads images as RGB, 1 as grey.
        options: `unreadable`, `workers` and `class_order`, see `FileData`, and those of `ImageData`.

    Raises:
        UserError: If there are no such folders or only one class, or a number is out of range.
    """

    name = "folder"
    classes: list[str]
    reference_eps = 0.05

    def __init__(
        self,
        root: str | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        channels: Literal[1, 3] = 3,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if root is None:
            raise UserError("the data folder needs its place: give --data.root FOLDER")
        self.root = expanded(root)
        self.channels = channels
        self.mean = tuple(mean or (IMAGENET_MEAN if channels == 3 else _GREY_MEAN))
        self.std = tuple(std or (IMAGENET_STD if channels == 3 else _GREY_STD))
        if not len(self.mean) == len(self.std) == channels:
            raise UserError(f"data.mean, data.std: expected {channels} values each, one per channel (data.channels)")
        check_normalisation(self.mean, self.std)
        folder = self._folder("train" if (self.root / "train").is_dir() else "test")
        self.classes = class_folders(folder, self.class_order)
        if len(self.classes) < 2:
            raise UserError(f"expected the folders of at least 2 classes in {folder}, found {self.classes[0]} alone")
        self.num_classes = len(self.classes)

    def describe(self) -> str:
        """Return the folder's own name, which a copy keeps, and the arguments that are not at their defaults."""
        return super().describe().replace(self.name, f"{self.name} {text_of(self.root.resolve().name)}", 1)

    def load(self, split: Literal["train", "test"]) -> ImageFiles:
        """List the files of a split; an image's id is `folder/<split>/<class>/<file name>`."""
        folder = self._folder(split)
        return self.listed(folder, self.classes, f"folder/{split}", nested=True, channels=self.channels)

    def _folder(self, split: str) -> Path:
        """Return the folder of a split; the root itself is the test split where it has class folders and no splits."""
        if split == "train":
            return self.root / "train"
        for name in ("test", "val"):
            if (self.root / name).is_dir():
                return self.root / name
        if (self.root / "train").is_dir() or not self.root.is_dir():
            return self.root / "test"
        splits = [name for name in class_folders(self.root) if name.lower() in _SPLITS]
        if splits:
            raise UserError(
                f"expected images as {self.root}/test/<class>/<name>.jpg or {self.root}/<class>/<name>.jpg, found "
                f"{', '.join(splits)}; rename the test images' folder to test, the others to train"
            )
        return self.root

"""Any folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from rfdlight._io import expanded
from rfdlight.core.arguments import changed_arguments, text_of
from rfdlight.data.conversion import check_normalisation
from rfdlight.data.files import FileData, ImageFiles, Unreadable
from rfdlight.data.listing import ClassOrder, class_folders, list_images, order_remarks, subfolders
from rfdlight.data.preparation import Size
from rfdlight.errors import UserError, shown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_GREY_MEAN = (0.449,)
_GREY_STD = (0.226,)
"""Means of those of ImageNet's channels."""

_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "eval", "dev"}
"""Names, in lower case, of folders that are splits and no classes."""


class ImageFolder(FileData):
    """A folder of images of any size: `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`).

    The classes are the folders of `train` in the order of `class_order`, or those of the test split where there is no
    `train`, which only `fit` needs. A root without these splits, `<class>/*`, is a test split. Images in folders within
    a class folder count for the class. PNG, JPEG, WebP and BMP files are read, batch by batch; of what else lies there
    the terminal is given an account.

    Args:
        root: The folder.
        mean: Per channel, in pixel units; by default those of ImageNet.
        std: Per channel, in pixel units; by default those of ImageNet.
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
        channels: 3 reads images as RGB, 1 as grey.

    Raises:
        UserError: If there are no such folders or only one class, or a number is out of range.
    """

    name = "folder"
    classes: list[str]
    default_victim = None
    reference_eps = 0.05
    unrelated = FileData.unrelated | {"root"}

    def __init__(
        self,
        root: str | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        num_images: int | None = None,
        selection: Literal["balanced", "first", "random"] = "balanced",
        seed: int = 0,
        batch_size: int = 128,
        size: Size | None = None,
        validation: int = 0,
        unreadable: Unreadable = "quarantine",
        workers: int = 0,
        class_order: ClassOrder = "text",
        channels: Literal[1, 3] = 3,
    ) -> None:
        super().__init__(num_images, selection, seed, batch_size, size, validation, unreadable, workers, class_order)
        if root is None:
            raise UserError("the data folder needs its place: give --data.root FOLDER")
        self.root = expanded(root)
        self.channels = channels
        self.mean = tuple(mean or (IMAGENET_MEAN if channels == 3 else _GREY_MEAN))
        self.std = tuple(std or (IMAGENET_STD if channels == 3 else _GREY_STD))
        for option, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise UserError(f"data.{option} must have {channels} values, as data.channels says, got {len(values)}")
        check_normalisation(self.mean, self.std)
        folder = self._folder("train" if (self.root / "train").is_dir() else "test")
        self.classes = class_folders(folder, class_order)
        if len(self.classes) < 2:
            raise UserError(f"expected the folders of at least 2 classes in {folder}, found {self.classes[0]} alone")
        self.num_classes = len(self.classes)

    def describe(self) -> str:
        """Return the folder's own name, which a copy keeps, and the arguments that are not at their defaults."""
        named = f"{self.name} {text_of(self.root.resolve().name)}"
        return ", ".join([named, *changed_arguments(self, leave_out=self.unrelated)])

    def _folder(self, split: str) -> Path:
        """Return the folder of a split; the root itself is the test split where it has class folders and no splits."""
        if split == "train":
            return self.root / "train"
        for name in ("test", "val"):
            if (self.root / name).is_dir():
                return self.root / name
        if (self.root / "train").is_dir() or not self.root.is_dir():
            return self.root / "test"
        found = subfolders(self.root)
        hint = self._wrong_root(found)
        if hint:
            raise UserError(
                f"expected images as {self.root}/test/<class>/<name>.jpg or {self.root}/<class>/<name>.jpg; {hint}"
            )
        return self.root

    def _wrong_root(self, found: list[str]) -> str | None:
        """Return a hint if the folders of the root are no classes."""
        splits = [name for name in found if name.lower() in _SPLITS]
        if splits:
            return f"found {', '.join(splits)}: rename or link the test images' folder to test, the others to train"
        inner = [
            name for name in found if {"train", "test", "val"} & {each.lower() for each in subfolders(self.root / name)}
        ]
        if inner:
            return f"found splits in {shown(self.root / inner[0])}: give it as --data.root"
        return None

    def load(self, split: Literal["train", "test"]) -> ImageFiles:
        """List the files of a split; an image's id is `folder/<split>/<class>/<file name>`."""
        folder = self._folder(split)
        listing = list_images(folder, self.classes)
        remarks = listing.remarks + ([f"{folder} has no splits, its folders are the classes"] * (folder == self.root))
        for remark in [*order_remarks(self.classes, self.class_order), *remarks]:
            self.note(remark)
        ids = [f"folder/{split}/{name}" for name in listing.names()]
        labels = torch.tensor(listing.labels)
        return ImageFiles(listing.paths, labels, ids, self.unreadable, channels=self.channels)

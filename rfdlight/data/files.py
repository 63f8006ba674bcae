"""Class folders of image files: their listing, and the base class of the data modules that decode them in batches."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2.functional import InterpolationMode

from rfdlight import _io
from rfdlight.data.base import ImageData
from rfdlight.data.sources import ImageFiles, Unreadable
from rfdlight.errors import UserError, shown, unknown_name

ClassOrder = Literal["text", "natural"]
"""Order of class folders: as text (1, 10, 2), as in torchvision, or by number (1, 2, 10), as in timm."""

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
"""Suffixes of image files, in lower case; upper case counts as well."""

_CLUTTER = {"__MACOSX", "__pycache__", "@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN", "lost+found"}
"""Folders that archive programs and storage systems leave behind, besides hidden ones."""


def class_folders(folder: Path, order: ClassOrder = "text") -> list[str]:
    """Return the names of the class folders below `folder`, in the order of their labels.

    Class folders and files may be links, also to places outside of the data root.
    """
    if not folder.is_dir():
        raise UserError(f"expected images as {folder}/<class>/<name>.jpg, there is no such folder")
    _, names, _ = next(_walk(folder))
    if not names:
        raise UserError(f"expected images as {folder}/<class>/<name>.jpg, found no class folders in {folder}")
    _check_names(folder, names)
    return sorted(names, key=_natural_key) if order == "natural" else names


def list_images(folder: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    """Return the image files of all classes, in order of class and of path, and the index of each file's class.

    Images in folders within a class folder count for the class; a class may have no folder.
    """
    found = set(class_folders(folder))
    for name in sorted(found.difference(classes)):
        raise unknown_name(f"class folder in {folder}:", name, classes)
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        of_class = sorted(_images_below(folder / name)) if name in found else []
        paths += of_class
        labels += [label] * len(of_class)
    if not paths:
        raise UserError(f"expected images as {folder}/<class>/<name>.jpg, found no {', '.join(sorted(_SUFFIXES))}")
    return paths, labels


def _images_below(folder: Path) -> Iterator[Path]:
    for parent, _, files in _walk(folder):
        images = [file for file in files if Path(file).suffix.lower() in _SUFFIXES and not file.startswith(".")]
        _check_names(parent, images)
        yield from (parent / image for image in images)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk as `os.walk`, sorted, without hidden folders and clutter, and below the top without linked folders."""

    def fail(error: OSError) -> None:
        raise UserError(f"cannot list the folder {error.filename}: {error.strerror}") from error

    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _CLUTTER)
        yield Path(parent), folders, files


def _check_names(folder: Path, names: list[str]) -> None:
    """Refuse names that are not UTF-8: ids are made of names, and seeds and records of ids."""
    for name in names:
        if not _io.is_plain(name):
            raise UserError(f"expected names in UTF-8, got {shown(folder / name)}: rename it")


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts numbers within names by value and ignores case, as timm does.

    Example:
        >>> sorted(["10", "9", "b", "A"], key=_natural_key)
        ['9', '10', 'A', 'b']
    """
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


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
        """List the files of a split; ids are `prefix` and the path below `folder` if `nested`, else the file name."""
        paths, labels = list_images(folder, classes)
        names = [path.relative_to(folder).as_posix() if nested else path.name for path in paths]
        ids = [f"{prefix}/{name}" for name in names]
        return ImageFiles(paths, torch.tensor(labels), ids, self.unreadable, channels=channels)

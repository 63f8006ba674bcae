"""Images that are read from their files when they are needed."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2.functional import InterpolationMode

from rfdlight import documents
from rfdlight.data.base import ImageData, Transform, UnreadableImageError
from rfdlight.data.preparation import Preparation
from rfdlight.errors import UserError, shown

SUFFIXES = {".png", ".jpg", ".jpeg"}
"""Which files are images; case does not matter."""

_FORMATS = ("PNG", "JPEG")
"""What is looked for in them; of the others that Pillow knows, some are programs, such as EPS."""

Unreadable = Literal["quarantine", "skip", "refuse"]


def read_bytes(path: Path) -> bytes:
    """Return what a file holds.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        return documents.read_bytes(path)
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror}") from error


def decode(path: Path, content: bytes) -> Tensor:
    """Return an image as RGB, (3, H, W) uint8.

    Raises:
        UserError: If it is damaged, cut off, too large to be meant, or neither PNG nor JPEG.
    """
    try:
        # What Pillow only warns of are images of more pixels than its bound; two of these would fill a small memory.
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(content), formats=_FORMATS) as image,
        ):
            decoded = np.array(image.convert("RGB"))  # (H, W, 3)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        most = f"at most {Image.MAX_IMAGE_PIXELS:,} pixels"
        raise UserError(f"cannot read the image {path}: expected {most}, it says that it has more") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"cannot read the image {path}: it is damaged or neither PNG nor JPEG") from error
    return torch.from_numpy(decoded).permute(2, 0, 1)


@dataclass(frozen=True)
class ImageFiles:
    """A split in files, of which none is kept in memory.

    Attributes:
        paths: N files.
        labels: (N,) int64.
        ids: N unique names.
        unreadable: Whether a file that cannot be read ends the run ("refuse") or is left out.
        preparation: Brings images to a size as they are read.
    """

    paths: list[Path]
    labels: Tensor
    ids: list[str]
    unreadable: Unreadable = "refuse"
    preparation: Preparation | None = None

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
        """Return the pixels of some images, (rows, 3, H, W) uint8, augmented in the place of the preparation if at all.

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
            return decode(path, read_bytes(path))
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


def check_name(path: Path) -> None:
    """Refuse a file or folder whose name is no text: ids are made of names, and seeds and records of ids.

    Raises:
        UserError: If its name is not UTF-8.
    """
    if not documents.is_plain(path.name):
        raise UserError(f"expected names in UTF-8, got {shown(path)}: rename it")


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders below `folder`, sorted; their positions are the labels.

    Folders and files may be links, also to places outside of the data root: data sets are often put together of
    links, and of a file that is no picture nothing is shown.

    Raises:
        UserError: If there are none, or the name of one is not UTF-8.
    """
    if not folder.is_dir():
        raise UserError(f"expected images as {folder}/<class>/<name>.jpg, there is no such folder")
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    if not folders:
        raise UserError(f"expected images as {folder}/<class>/<name>.jpg, found no class folders in {folder}")
    for path in folders:
        check_name(path)
    return [path.name for path in folders]


def list_files(folder: Path, classes: list[str]) -> tuple[list[Path], Tensor]:
    """Return the image files of all classes, in order of class and name, and their labels (N,) int64.

    Raises:
        UserError: If there are none, a folder is no class, or a name is not UTF-8.
    """
    strangers = sorted(set(class_folders(folder)) - set(classes))
    if strangers:
        raise UserError(f"the class folder {folder / strangers[0]} is not among the {len(classes)} classes of the data")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if (folder / name).is_dir():
            of_class = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES)
            paths += of_class
            labels += [label] * len(of_class)
    if not paths:
        raise UserError(f"expected images as {folder}/<class>/<name>.jpg, found no .jpg, .jpeg or .png")
    for path in paths:
        check_name(path)
    return paths, torch.tensor(labels)


class FileData(ImageData):
    """Base of the data modules that read images from files, batch by batch.

    Training images are cropped at random, to between 8 % and all of their area, and half of them mirrored: Szegedy and
    others, Going Deeper with Convolutions, CVPR 2015, section 6.

    Args:
        num_images: How many test images are attacked.
        selection: How they are chosen; see `rfdlight.data.subset.select`.
        seed: Of that choice.
        batch_size: Images per training batch.
        size: Height and width that images are brought to, in pixels; by default what the victim asks for.
        validation: Training images held out of the training, equally many of each class.
        unreadable: What becomes of a file that cannot be read. In a test, it counts as an image that failed
            ("quarantine"), is told and another image takes its place ("skip"), or ends the run before the first query
            ("refuse"). In training, the latter ends it too; else the file is told and left out.
        workers: Processes that read batches ahead.

    Raises:
        UserError: If a number is out of range.
    """

    has_native_size = False
    unrelated = ImageData.unrelated | {"workers"}

    def __init__(
        self,
        num_images: int,
        selection: Literal["balanced", "first", "random"],
        seed: int,
        batch_size: int,
        size: int | None,
        validation: int,
        unreadable: Unreadable,
        workers: int,
    ) -> None:
        super().__init__(num_images, selection, seed, batch_size, size, validation)
        if workers < 0:
            raise UserError(f"data.workers must be at least 0, got {workers}")
        self.unreadable = unreadable
        self.workers = workers
        self._readable: list[int] | None = None

    def augment(self, pixels: Tensor) -> Tensor:
        """Crop an image at random to the size of the preparation, and mirror it with probability one half."""
        preparation = self.preparation
        size = min(pixels.shape[-2:]) if preparation is None else preparation.size
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

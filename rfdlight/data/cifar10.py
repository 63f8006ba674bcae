"""CIFAR-10, from the official archive or a tree of class folders."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision import datasets

from rfdlight._io import expanded
from rfdlight.data.base import ImageData
from rfdlight.data.files import list_images
from rfdlight.data.preparation import random_crop_flip
from rfdlight.data.sources import ImageFiles, Images, ImageSource
from rfdlight.errors import UserError, one_line

_ARCHIVE = "cifar-10-batches-py"


class CIFAR10(ImageData):
    """CIFAR-10: 50,000 training and 10,000 test images of 3 x 32 x 32 in 10 classes.

    The data root holds either the official archive's folder `cifar-10-batches-py`, or the folders
    `train/<class>/*.png` and `test/<class>/*.png`, directly or below a folder `cifar10`. Both give the same images and
    ids: the archive stores its images' file names.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.

    Args:
        root: The data root; by default the environment variable RFDLIGHT_DATA.
        download: Fetch the official archive into the root if nothing is there.
        options: `num_images`, `selection`, `seed`, `batch_size`, `size` and `validation`, see `ImageData`.

    Raises:
        UserError: If the data cannot be found or read.
    """

    name = "cifar10"
    num_classes = 10
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    default_victim = "resnet20-cifar10"
    reference_eps = 0.05
    unrelated = ImageData.unrelated | {"root", "download"}

    def __init__(self, root: str | None = None, download: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.root = root
        self.download = download

    def augment(self, pixels: Tensor) -> Tensor:
        """Crop at random from a padded image and mirror half of the images."""
        return random_crop_flip(pixels)

    def load(self, split: Literal["train", "test"]) -> ImageSource:
        """Find the data under the root and read a split of it; test images in files are decoded when they are read."""
        base = self._base(split)
        if (base / _ARCHIVE).is_dir():
            return self._read_archive(base, split)
        paths, labels = list_images(base / split, self.classes)
        files = ImageFiles(paths, torch.tensor(labels), [f"cifar10/{split}/{path.name}" for path in paths])
        return files if split == "test" else Images(files.read(list(range(len(files)))), files.labels, files.ids)

    def _base(self, split: str) -> Path:
        """Return the folder that holds the archive or the class folders."""
        named = self.root or os.environ.get("RFDLIGHT_DATA")
        if not named:
            raise UserError(
                "cifar10 needs a data root: give --data.root FOLDER or set RFDLIGHT_DATA; "
                "with --data.download true the official archive is fetched into it"
            )
        root = expanded(named)
        for base in (root, root / "cifar10"):
            if (base / _ARCHIVE).is_dir() or (base / split).is_dir():
                return base
        if not self.download:
            raise UserError(
                f"no CIFAR-10 under {root}: expected {_ARCHIVE}/ or {split}/<class>/*.png; "
                "--data.download true fetches the official archive"
            )
        try:
            datasets.CIFAR10(str(root), download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot fetch the CIFAR-10 archive into {root}: {one_line(error)}") from error
        return root

    def _read_archive(self, base: Path, split: str) -> Images:
        try:
            official = datasets.CIFAR10(str(base), train=split == "train", download=False)
        except RuntimeError as error:
            raise UserError(
                f"the archive under {base / _ARCHIVE} is incomplete or damaged; remove it and use --data.download true"
            ) from error
        # Its checksums were compared, so unpickling is safe. The archive is read again because torchvision drops the
        # file names.
        names: list[str] = []
        for file_name, _ in official.train_list if official.train else official.test_list:
            with (base / _ARCHIVE / file_name).open("rb") as stored:
                names += pickle.load(stored, encoding="latin1")["filenames"]
        pixels = torch.from_numpy(official.data).permute(0, 3, 1, 2)
        images = Images(pixels, torch.tensor(official.targets), [f"cifar10/{split}/{name}" for name in names])
        return images.take(sorted(range(len(names)), key=lambda i: (official.targets[i], names[i])))

"""What every data module shares: its items, its loaders and the attacked subset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from rfdlight.data.subset import select
from rfdlight.errors import UserError

Batch = tuple[Tensor, Tensor, list[str]]
"""Pixels (rows, C, H, W) float32 in [0, 1], labels (rows,) int64, and the image ids."""


@dataclass(frozen=True)
class Images:
    """A split in memory.

    Attributes:
        pixels: (N, C, H, W) uint8.
        labels: (N,) int64.
        ids: N unique names, `<dataset>/<split>/<file name>`.
    """

    pixels: Tensor
    labels: Tensor
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: list[int]) -> Images:
        """Return the images at `positions`, in that order."""
        return Images(self.pixels[positions], self.labels[positions], [self.ids[p] for p in positions])


class _Batches(Dataset[Batch]):
    """Whole batches by their positions: one slice of the tensor instead of one item at a time."""

    def __init__(self, images: Images, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        self.images = images
        self.transform = transform

    def __getitem__(self, positions: list[int]) -> Batch:
        batch = self.images.take(positions)
        pixels = batch.pixels if self.transform is None else self.transform(batch.pixels)
        return pixels.float().div_(255), batch.labels, batch.ids

    def __len__(self) -> int:
        return len(self.images)


class ImageData(LightningDataModule):
    """Base of the data modules: subclasses give the constants below and `load`.

    Every loader yields `(pixels in [0, 1], labels, image ids)`. Normalisation is not done here: it
    is the victim's first layer, so that eps is always in pixel units.

    Args:
        num_images: How many test images are attacked.
        selection: How they are chosen; see `rfdlight.data.subset.select`.
        seed: Of that choice.
        batch_size: Images per training batch.

    Raises:
        UserError: If `batch_size` is not positive, or the subset cannot be had.
    """

    name: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    default_victim: str
    reference_eps: float

    def __init__(
        self,
        num_images: int = 1000,
        selection: Literal["balanced", "first", "random"] = "balanced",
        seed: int = 0,
        batch_size: int = 128,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size must be at least 1, got {batch_size}")
        if num_images < 1:
            raise UserError(f"data.num_images must be at least 1, got {num_images}")
        self.num_images = num_images
        self.selection = selection
        self.seed = seed
        self.batch_size = batch_size
        self._splits: dict[str, Images] = {}

    def load(self, split: Literal["train", "test"]) -> Images:
        """Read a whole split; called once per split and process."""
        raise TypeError(f"{type(self).__name__} must define load(split)")

    def augment(self, pixels: Tensor) -> Tensor:
        """Change a training batch, uint8 to uint8; the default leaves it as it is."""
        return pixels

    def images(self, split: Literal["train", "test"]) -> Images:
        """Return a whole split, read at the first call.

        Raises:
            UserError: If a label lies outside the classes.
        """
        if split not in self._splits:
            images = self.load(split)
            low, high = int(images.labels.min()), int(images.labels.max())
            if low < 0 or high >= self.num_classes:
                wrong = low if low < 0 else high
                raise UserError(
                    f"{self.name} has {self.num_classes} classes, but an image of its {split} split "
                    f"has the label {wrong}"
                )
            self._splits[split] = images
        return self._splits[split]

    def _positions(self) -> list[int]:
        test = self.images("test")
        return select(test.ids, test.labels.tolist(), self.num_images, self.selection, self.seed)

    def attacked(self) -> Images:
        """Return the attacked subset of the test split, ordered by id."""
        return self.images("test").take(self._positions())

    def held_out(self) -> Images:
        """Return the test images that are not attacked: those that a calibration may look at."""
        attacked = set(self._positions())
        test = self.images("test")
        return test.take([position for position in range(len(test)) if position not in attacked])

    def setup(self, stage: str) -> None:
        """Read what the stage needs, so that bad data is found before a run starts.

        Raises:
            UserError: If the data cannot be had, or no training batch can be filled.
        """
        if stage == "fit" and len(self.images("train")) < self.batch_size:
            raise UserError(
                f"data.batch_size must be at most the {len(self.images('train'))} training images, "
                f"got {self.batch_size}"
            )
        self.images("test")
        if stage == "test":
            self._positions()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled and augmented training batches; the incomplete last batch is left out."""
        images = self.images("train")
        sampler = BatchSampler(RandomSampler(images.ids), self.batch_size, drop_last=True)
        return DataLoader(_Batches(images, self.augment), sampler=sampler, batch_size=None)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the attacked subset, in order of id."""
        return loader(self.attacked(), self.batch_size)


def loader(images: Images, batch_size: int) -> DataLoader[Batch]:
    """Batches of `images` in their order, the last one as short as it is."""
    sampler = BatchSampler(SequentialSampler(images.ids), batch_size, drop_last=False)
    return DataLoader(_Batches(images), sampler=sampler, batch_size=None)


def random_crop_flip(pixels: Tensor, padding: int = 4, mirror: bool = True) -> Tensor:
    """Shift each image by up to `padding` pixels over a black border, and mirror half of them.

    Source: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016,
    section 4.2.

    Args:
        pixels: (rows, C, H, W) uint8.
        padding: Width of the border, in pixels.
        mirror: Whether to mirror.

    Returns:
        The same shape and dtype.
    """
    rows, channels, height, width = pixels.shape
    padded = torch.nn.functional.pad(pixels, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, rows, 1))
    down = top + torch.arange(height)  # (rows, H)
    across = left + torch.arange(width)  # (rows, W)
    if mirror:
        across = torch.where(torch.rand(rows, 1) < 0.5, across, across.flip(1))
    row = torch.arange(rows)[:, None, None, None]
    channel = torch.arange(channels)[:, None, None]
    return padded[row, channel, down[:, None, :, None], across[:, None, None, :]]

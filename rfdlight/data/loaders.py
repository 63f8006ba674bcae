"""Data loaders that yield whole batches of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from rfdlight.data.conversion import unit_range
from rfdlight.data.sources import ImageSource, Transform, read_readable

Batch = tuple[Tensor, Tensor, list[str]]
"""Pixels (rows, C, H, W) float32 in [0, 1], labels (rows,) int64, and the image ids."""

Deal = Callable[[int], Iterable[range]]
"""Maps a number of images to the chunks of positions that one process attacks."""


class _Batches(Dataset[Batch]):
    """Batches by lists of positions: one slice of the tensor instead of one item at a time."""

    def __init__(self, images: ImageSource, augment: Transform | None = None) -> None:
        self.images = images
        self.augment = augment

    def __getitem__(self, positions: list[int]) -> Batch:
        pixels, positions = read_readable(self.images, positions, self.augment)
        return unit_range(pixels), self.images.labels[positions], [self.images.ids[p] for p in positions]

    def __len__(self) -> int:
        return len(self.images)


class _DealtSampler(Sampler[list[int]]):
    """Yields the chunks of one process; its length is an upper bound, at least 1: Lightning skips empty tests."""

    def __init__(self, deal: Deal, images: int) -> None:
        self._deal = deal
        self._images = images

    def __iter__(self) -> Iterator[list[int]]:
        return map(list, self._deal(self._images))

    def __len__(self) -> int:
        return max(1, self._images)


def loader(images: ImageSource, batch_size: int, workers: int = 0) -> DataLoader[Batch]:
    """Return a loader of `images` in their order; the last batch may be smaller."""
    sampler = BatchSampler(SequentialSampler(images.ids), batch_size, drop_last=False)
    return DataLoader(_Batches(images), sampler=sampler, batch_size=None, num_workers=workers)


def training_loader(images: ImageSource, batch_size: int, augment: Transform, workers: int = 0) -> DataLoader[Batch]:
    """Return a loader of shuffled and augmented batches, without the incomplete last one."""
    sampler = BatchSampler(RandomSampler(images.ids), batch_size, drop_last=True)
    return DataLoader(_Batches(images, augment), sampler=sampler, batch_size=None, num_workers=workers)


def dealt_loader(images: ImageSource, deal: Deal) -> DataLoader[Batch]:
    """Return a loader of the chunks of one process, without workers: no other process can take a chunk read ahead."""
    return DataLoader(_Batches(images), sampler=_DealtSampler(deal, len(images)), batch_size=None)

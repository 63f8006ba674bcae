"""Base class of the data modules."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from rfdlight.core.arguments import Configurable, changed_arguments
from rfdlight.core.user_code import described
from rfdlight.data.conversion import as_source, check_normalisation
from rfdlight.data.loaders import Batch, Deal, dealt_loader, loader, training_loader
from rfdlight.data.preparation import Preparation, Size
from rfdlight.data.sources import ImageSource
from rfdlight.data.subset import AttackedSubset, attacked_subset, select
from rfdlight.errors import UserError

Split = Literal["train", "validation", "test"]


class ImageData(Configurable, LightningDataModule):
    """Base class of the data modules: a subclass sets the constants below and defines `load`.

    Every loader yields (pixels in [0, 1], labels, image ids). Pixels are not normalised: that is the victim's first
    layer, so eps is in pixel units. The result of `load` is checked and converted once.

    Args:
        num_images: How many test images are attacked; by default `default_num_images`, or all of a smaller test split.
        selection: How the attacked images are chosen; see `rfdlight.data.subset.select`.
        seed: Seed of that choice.
        batch_size: Images per training batch.
        size: Height and width in pixels, or one number for both; by default the images' own, or those of the victim's
            card or pretrained weights.
        validation: Training images held out of the training, equally many of each class.

    Raises:
        UserError: If a number is out of range, or there are too few images.
    """

    name: str
    """Of the data set; by default the class's name in lower case."""
    num_classes: int
    mean: tuple[float, ...]
    """Of each channel, in pixel units; its length is the number of channels."""
    std: tuple[float, ...]
    """Of each channel, in pixel units."""
    default_victim: str | None = None
    reference_eps: float | None = None
    """Default radius of linf attacks, in pixel units."""
    default_num_images: ClassVar[int] = 1000
    """Default number of attacked images in a test split that has as many."""
    classes: Sequence[str] | None = None
    """Names of the classes by index, for display."""
    has_native_size: bool = True
    """Whether all images have the same size."""
    workers: int = 0
    """Processes that read batches ahead; images in memory need none."""
    unrelated: ClassVar[frozenset[str]] = frozenset({"num_images", "selection", "batch_size", "validation"})
    """Arguments that `describe` leaves out: recorded separately, or without influence on an evaluation."""

    def __init__(
        self,
        num_images: int | None = None,
        selection: Literal["balanced", "first", "random"] = "balanced",
        seed: int = 0,
        batch_size: int = 128,
        size: Size | None = None,
        validation: int = 0,
    ) -> None:
        super().__init__()
        checked = ("batch_size", batch_size, 1), ("num_images", num_images, 1), ("validation", validation, 0)
        for option, value, least in checked:
            if value is not None and value < least:
                raise UserError(f"data.{option} must be at least {least}, got {value}")
        if size is not None:
            Preparation(size)
        self._count = num_images
        self.selection = selection
        self.seed = seed
        self.batch_size = batch_size
        self.size = size
        self.validation = validation
        self._victim_preparation: Preparation | None = None
        self._splits: dict[str, ImageSource] = {}
        self._subset: AttackedSubset | None = None
        self._finished: frozenset[str] = frozenset()
        self._deal: Deal | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if getattr(cls, "name", None) is None:  # as Lightning leaves it
            cls.name = cls.__name__.lower()

    def load(self, split: Literal["train", "test"]) -> Any:
        """Read a whole split; called once per split and process.

        Returns:
            An `ImageSource`, such as `Images`; (pixels, labels, ids); (pixels, labels); or a dataset of such items.
            Without ids, the positions make them.
        """
        raise UserError(f"{type(self).__name__} must define load(split), which returns pixels, labels and ids")

    def augment(self, pixels: Tensor) -> Tensor:
        """Change a training batch, which keeps its dtype, uint8 or floats in [0, 1]; by default nothing changes."""
        return pixels

    def describe(self) -> str:
        """Return the name, and the arguments of the constructor that are not at their defaults."""
        return ", ".join([self.name, *changed_arguments(self, leave_out=self.unrelated)])

    def images(self, split: Split) -> ImageSource:
        """Return a whole split, which the first call loads and checks; "train" excludes the validation images."""
        if split == "test":
            return self._loaded("test").prepared(self.preparation)
        train = self._loaded("train").prepared(self.preparation)
        if self.validation == 0:
            return train.take([]) if split == "validation" else train
        if self.validation >= len(train):
            raise UserError(f"data.validation must be below the {len(train)} training images, got {self.validation}")
        held = select(train.ids, train.labels.tolist(), self.validation, "balanced", self.seed)
        if split == "validation":
            return train.take(held)
        return train.take(sorted(set(range(len(train))) - set(held)))

    def _loaded(self, split: Literal["train", "test"]) -> ImageSource:
        if split not in self._splits:
            self._splits[split] = self._converted(split)
        return self._splits[split]

    def take_splits(self, other: ImageData) -> None:
        """Take the splits that another data module of the same settings has loaded."""
        self._splits |= other._splits

    def _converted(self, split: Literal["train", "test"]) -> ImageSource:
        try:
            loaded = self.load(split)
        except UserError:
            raise
        except Exception as error:  # a user's own code may raise anything
            raise UserError(f"{self.name}: load('{split}') raised {described(error)}") from error
        try:
            missing = [constant for constant in ("num_classes", "mean", "std") if not hasattr(self, constant)]
            if missing:
                raise UserError(f"expected {type(self).__name__} to define {', '.join(missing)}")
            check_normalisation(self.mean, self.std)
            return as_source(loaded, f"{self.name}/{split}", self.num_classes, len(self.mean))
        except UserError as error:
            raise UserError(f"{self.name}, {split} split: {error}") from error

    def prepare(self, preparation: Preparation) -> None:
        """Resize images as the victim needs; a size that the user gave has priority."""
        self._victim_preparation = preparation

    @property
    def preparation(self) -> Preparation | None:
        """How images are resized, or None if they are not."""
        if self.size is None:
            return self._victim_preparation
        return replace(self._victim_preparation or Preparation(self.size), size=self.size)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images as they are read."""
        if self.preparation is not None:
            return len(self.mean), *self.preparation.height_width
        channels, height, width = self.example().shape[1:]
        return channels, height, width

    def example(self) -> Tensor:
        """Return the first test image that can be read, (1, C, H, W)."""
        test = self.images("test")
        for position in range(len(test)):
            error = test.error_at(position)
            if error is None or error.refused:
                return test.read([position])
        return test.read([0])

    @property
    def num_images(self) -> int:
        """How many test images are attacked; an upper bound until they are chosen, if no number was given."""
        if self._count is not None:
            return self._count
        if self._subset is None:
            return self.default_num_images
        return len(self._subset.positions) + len(self._subset.quarantined)

    def _attacked(self) -> AttackedSubset:
        if self._subset is None:
            self._subset = attacked_subset(
                self._loaded("test"), self._count, self.default_num_images, self.selection, self.seed
            )
        return self._subset

    @property
    def unreadable_images(self) -> dict[str, str]:
        """Why each quarantined image cannot be read, by id."""
        return self._attacked().quarantined

    def attacked(self) -> ImageSource:
        """Return the attacked subset of the test split, ordered by id, without images that cannot be read."""
        return self.images("test").take(self._attacked().positions)

    def only(self, ids: Collection[str]) -> Self:
        """Return the data module that attacks the images with these ids alone, of those that can be read."""
        some, test = copy.copy(self), self.images("test")
        some._subset = AttackedSubset([i for i in self._attacked().positions if test.ids[i] in ids])
        some._count = len(some._subset.positions)
        some._finished, some._deal = frozenset(), None
        return some

    def held_out(self) -> ImageSource:
        """Return the test images that are not attacked, without those that are known to be unreadable."""
        subset, test = self._attacked(), self.images("test")
        taken = {*subset.positions}
        known = subset.quarantined.keys() | subset.skipped.keys()
        return test.take([i for i, name in enumerate(test.ids) if i not in taken and name not in known])

    def share(self, finished: Collection[str], deal: Deal) -> None:
        """Restrict `test_dataloader` to the images that one process of a run attacks.

        `finished` are ids that an earlier attempt at the run has finished; `deal` yields chunks of the others, each
        when the next batch is needed.
        """
        self._finished = frozenset(finished)
        self._deal = deal

    def setup(self, stage: str) -> None:
        """Load the data of a stage, so that bad data and too few training images are found before a run starts."""
        if stage == "fit" and len(self.images("train")) < self.batch_size:
            most = len(self.images("train"))
            raise UserError(f"data.batch_size must be at most the {most} training images, got {self.batch_size}")
        self.images("test")
        if stage == "test":
            self._attacked()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled and augmented training batches; the incomplete last batch is left out."""
        return training_loader(self.images("train"), self.batch_size, self.augment, self.workers)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Return the held-out images in order of id; no loader where there are none."""
        return loader(self.images("validation"), self.batch_size, self.workers) if self.validation else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the attacked subset in order of id, or the part of it that `share` sets."""
        attacked = self.attacked()
        left = attacked.take([i for i, image_id in enumerate(attacked.ids) if image_id not in self._finished])
        return loader(left, self.batch_size, self.workers) if self._deal is None else dealt_loader(left, self._deal)

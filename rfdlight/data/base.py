"""What every data module shares: its items, its loaders and the attacked subset."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, Self

from lightning.pytorch import LightningDataModule
from rich.text import Text
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from rfdlight._io import is_first, plain_console
from rfdlight.core.arguments import Configurable, changed_arguments
from rfdlight.core.user_code import described
from rfdlight.data.conversion import as_ids, as_labels, as_pixels, check_normalisation, read_dataset, unit_range
from rfdlight.data.preparation import Preparation, Size
from rfdlight.data.subset import select
from rfdlight.errors import UserError, shown

Batch = tuple[Tensor, Tensor, list[str]]
"""Pixels (rows, C, H, W) float32 in [0, 1], labels (rows,) int64, and the image ids."""


Split = Literal["train", "validation", "test"]

Transform = Callable[[Tensor], Tensor]
"""From pixels (rows, C, H, W), uint8 or floats in [0, 1], to the same."""

Deal = Callable[[int], Iterable[range]]
"""From a number of images to the chunks of them that a process gets."""


class UnreadableImageError(UserError):
    """A file that is damaged or no image.

    Args:
        position: Of the image among its split.
        refused: Whether it ends the run; else it is told and left out.
        reason: One line that names the file.
    """

    _told: ClassVar[set[str]] = set()

    def __init__(self, position: int, refused: bool, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.refused = refused

    def tell_once(self) -> None:
        """Say that the image is left out, if it was not said before."""
        if str(self) not in self._told:
            self._told.add(str(self))
            plain_console(stderr=True).print(Text(shown(f"rfdlight: {self}; left out")), soft_wrap=True)


class ImageSource(Protocol):
    """The images of a split, in memory or in files.

    Attributes:
        labels: (N,) int64.
        ids: N unique names, `<dataset>/<split>/<file name>`.
    """

    @property
    def labels(self) -> Tensor: ...

    @property
    def ids(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def take(self, positions: list[int]) -> Self:
        """Return the images at `positions`, in that order."""
        ...

    def prepared(self, preparation: Preparation | None) -> Self:
        """Return the same images, brought to a size as they are read."""
        ...

    def read(self, positions: list[int], augment: Transform | None = None) -> Tensor:
        """Return the pixels of some images, (rows, C, H, W) uint8 or float32 in [0, 1], augmented if that is given."""
        ...


@dataclass(frozen=True)
class Images:
    """A split in memory.

    A data module may give pixels, labels and ids in other forms, see `rfdlight.data.conversion`; they are converted
    to these.

    Attributes:
        pixels: (N, C, H, W), uint8 from 0 to 255 or float32 in [0, 1].
        labels: (N,) int64.
        ids: N unique names, `<dataset>/<split>/<file name>`.
        preparation: Brings images to a size as they are read.
    """

    pixels: Tensor
    labels: Tensor
    ids: list[str]
    preparation: Preparation | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: list[int]) -> Images:
        """Return the images at `positions`, in that order."""
        ids = [self.ids[position] for position in positions]
        return Images(self.pixels[positions], self.labels[positions], ids, self.preparation)

    def prepared(self, preparation: Preparation | None) -> Images:
        """Return the same images, brought to a size as they are read."""
        return replace(self, preparation=preparation)

    def read(self, positions: list[int], augment: Transform | None = None) -> Tensor:
        """Return the pixels of some images, of the stored dtype, augmented before they are brought to a size."""
        pixels = self.pixels[positions]
        if augment is not None:
            pixels = augment(pixels)
        return pixels if self.preparation is None else self.preparation(pixels)


def read_readable(
    images: ImageSource, positions: list[int], augment: Transform | None = None
) -> tuple[Tensor, list[int]]:
    """Return the pixels of those images that can be read, and their positions; the others are told and left out.

    Raises:
        UnreadableImageError: If none can be read, or a file that cannot shall end the run.
    """
    try:
        return images.read(positions, augment), positions
    except UnreadableImageError as error:
        rest = [position for position in positions if position != error.position]
        if error.refused or not rest:
            raise
        error.tell_once()
        return read_readable(images, rest, augment)


class _Batches(Dataset[Batch]):
    """Whole batches by their positions: one slice of the tensor instead of one item at a time."""

    def __init__(self, images: ImageSource, augment: Transform | None = None) -> None:
        self.images = images
        self.augment = augment

    def __getitem__(self, positions: list[int]) -> Batch:
        pixels, positions = read_readable(self.images, positions, self.augment)
        return unit_range(pixels), self.images.labels[positions], [self.images.ids[p] for p in positions]

    def __len__(self) -> int:
        return len(self.images)


class _Dealt(Sampler[list[int]]):
    """Yields the positions of chunks as they are dealt.

    Its length is what one process might get, and never 0, since Lightning skips a test without batches.
    """

    def __init__(self, deal: Deal, images: int) -> None:
        self._deal = deal
        self._images = images

    def __iter__(self) -> Iterator[list[int]]:
        return map(list, self._deal(self._images))

    def __len__(self) -> int:
        return max(1, self._images)


class ImageData(Configurable, LightningDataModule):
    """Base of the data modules: subclasses give the constants below and `load`.

    Every loader yields `(pixels in [0, 1], labels, image ids)`. Normalisation is not done here: it
    is the victim's first layer, so that eps is always in pixel units. What `load` returns is checked once, converted
    where its meaning is certain, which is said in one line, and else refused.

    Args:
        num_images: How many test images are attacked; by default `default_num_images`, or all of a smaller test split.
        selection: How they are chosen; see `rfdlight.data.subset.select`.
        seed: Of that choice.
        batch_size: Images per training batch.
        size: Height and width in pixels, or one number for both; by default their own, or what the victim's
            card or its pretrained weights ask for.
        validation: Training images held out of the training, equally many of each class.

    Raises:
        UserError: If a number is out of range, or the subset cannot be had.
    """

    name: str
    """Of the data set; by default the class's name in lower case."""
    num_classes: int
    mean: tuple[float, ...]
    """Of each channel, in pixel units; there are as many channels as means."""
    std: tuple[float, ...]
    """Of each channel, in pixel units."""
    default_victim: str | None = None
    reference_eps: float | None = None
    """Radius in linf of attacks that are given none, in pixel units."""
    default_num_images: ClassVar[int] = 1000
    """Test images that are attacked if the test split has so many and no number is given."""
    classes: Sequence[str] | None = None
    """Names of the classes by their index, for people who look at images; None where there are none."""
    has_native_size: bool = True
    """Whether all images have one size of their own."""
    workers: int = 0
    """Processes that read batches ahead; images in memory need none."""
    unrelated: ClassVar[frozenset[str]] = frozenset({"num_images", "selection", "batch_size", "validation"})
    """Arguments that `describe` leaves out: facts of a run by themselves, or without influence on an evaluation."""

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
        if batch_size < 1:
            raise UserError(f"data.batch_size must be at least 1, got {batch_size}")
        if num_images is not None and num_images < 1:
            raise UserError(f"data.num_images must be at least 1, got {num_images}")
        self._wanted = num_images
        self._chosen: int | None = None
        self.selection = selection
        self.seed = seed
        if size is not None:
            Preparation(size)
        if validation < 0:
            raise UserError(f"data.validation must be at least 0, got {validation}")
        self.batch_size = batch_size
        self.size = size
        self.validation = validation
        self._asked: Preparation | None = None
        self._finished: frozenset[str] = frozenset()
        self._deal: Deal | None = None
        self._splits: dict[str, ImageSource] = {}
        self._unreadable: dict[str, str] = {}
        self._remarks: list[str] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if getattr(cls, "name", None) is None:  # as Lightning leaves it
            cls.name = cls.__name__.lower()

    @property
    def num_images(self) -> int:
        """How many test images are attacked; without a number, at most so many until the attacked ones are chosen."""
        if self._wanted is not None:
            return self._wanted
        return self.default_num_images if self._chosen is None else self._chosen

    def load(self, split: Literal["train", "test"]) -> Any:
        """Read a whole split; called once per split and process.

        Returns:
            An `ImageSource`, such as `Images`; or pixels, labels and ids as a tuple; or pixels and labels, or a
            map-style dataset of such items, whose positions make the ids.
        """
        raise UserError(f"{type(self).__name__} must define load(split), which returns pixels, labels and ids")

    def note(self, remark: str) -> None:
        """Have a remark about a split that is loaded printed, in one line, once the split is found sound."""
        self._remarks.append(remark)

    def describe(self) -> str:
        """Return the name, and the arguments of the constructor that are not at their defaults."""
        return ", ".join([self.name, *changed_arguments(self, leave_out=self.unrelated)])

    def augment(self, pixels: Tensor) -> Tensor:
        """Change a training batch and return the same dtype, uint8 or floats in [0, 1]; the default changes nothing."""
        return pixels

    def prepare(self, preparation: Preparation) -> None:
        """Bring images to the size that a network asks for; a size that the user gave stays."""
        self._asked = preparation

    @property
    def preparation(self) -> Preparation | None:
        """How images are brought to a size, or None where they keep their own."""
        if self.size is None:
            return self._asked
        return replace(self._asked, size=self.size) if self._asked else Preparation(self.size)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images as they are read."""
        if self.preparation is not None:
            return len(self.mean), *self.preparation.height_width
        channels, height, width = self.example().shape[1:]
        return channels, height, width

    def example(self) -> Tensor:
        """Return the first test image that can be read, (1, C, H, W) uint8.

        Raises:
            UnreadableImageError: If there is none, or a file that cannot be read shall end the run.
        """
        test, position = self.images("test"), 0
        while True:
            try:
                return test.read([position])
            except UnreadableImageError as error:
                position += 1
                if error.refused or position == len(test):
                    raise

    def images(self, split: Split) -> ImageSource:
        """Return a whole split, read at the first call; what is held out for validation is not in "train".

        Raises:
            UserError: If a label lies outside the classes, two images have the same id, or there are fewer training
                images than held out.
        """
        if split == "test":
            return self._whole("test").prepared(self.preparation)
        train = self._whole("train").prepared(self.preparation)
        if self.validation == 0:
            return train.take([]) if split == "validation" else train
        if self.validation >= len(train):
            raise UserError(f"data.validation must be below the {len(train)} training images, got {self.validation}")
        held = select(train.ids, train.labels.tolist(), self.validation, "balanced", self.seed)
        if split == "validation":
            return train.take(held)
        return train.take(sorted(set(range(len(train))) - set(held)))

    def _whole(self, split: Literal["train", "test"]) -> ImageSource:
        if split not in self._splits:
            self._remarks = []
            loaded = self._loaded(split)
            try:
                images = self._converted(split, loaded)
            except UserError as error:
                raise UserError(f"{self.name}, {split} split: {error}") from error
            self._check(split, images)
            for remark in self._remarks if is_first(os.environ) else ():
                line = shown(f"rfdlight: {self.name}, {split} split: {remark}")
                plain_console(stderr=True).print(Text(line), soft_wrap=True)
            self._splits[split] = images
        return self._splits[split]

    def _loaded(self, split: Literal["train", "test"]) -> Any:
        try:
            return self.load(split)
        except UserError:
            raise
        except Exception as error:  # a user's own code may raise anything
            raise UserError(f"{self.name}: load('{split}') raised {described(error)}") from error

    def _converted(self, split: str, loaded: Any) -> ImageSource:
        """Return what `load` gave as images of the usual form."""
        missing = [constant for constant in ("num_classes", "mean", "std") if not hasattr(self, constant)]
        if missing:
            raise UserError(f"expected {type(self).__name__} to define {', '.join(missing)}")
        check_normalisation(self.mean, self.std)
        if all(hasattr(loaded, part) for part in ("labels", "ids", "take", "prepared", "read")):
            return self._converted_source(loaded)
        if isinstance(loaded, Dataset | DataLoader):
            loaded = read_dataset(loaded)
        if not isinstance(loaded, tuple) or len(loaded) not in (2, 3):
            raise UserError(
                f"expected Images, (pixels, labels, ids), (pixels, labels) or a dataset from load, "
                f"got {type(loaded).__name__}"
            )
        pixels, labels, ids = (*loaded, None)[:3]
        if ids is None:
            self.note("ids are made of the images' positions")
            ids = [f"{self.name}/{split}/{position:05d}" for position in range(len(labels))]
        return self._converted_source(Images(pixels, labels, ids))

    def _converted_source(self, images: Any) -> ImageSource:
        notes: list[str] = []
        changed: dict[str, Any] = {"labels": as_labels(images.labels, self.num_classes, notes)}
        changed["ids"] = as_ids(images.ids, notes)
        if isinstance(images, Images):
            changed["pixels"] = as_pixels(images.pixels, len(self.mean), notes)
        sizes = {"pixels": len(changed.get("pixels", images))} | {
            part: len(changed[part]) for part in ("labels", "ids")
        }
        if len(set(sizes.values())) > 1:
            counted = ", ".join(f"{count:,} {part}" for part, count in sizes.items())
            raise UserError(f"expected as many labels and ids as images, got {counted}")
        if sizes["ids"] == 0:
            raise UserError("expected at least one image, got none")
        for remark in notes:
            self.note(remark)
        if is_dataclass(images):
            return replace(images, **changed)  # type: ignore[return-value,type-var]
        if notes:
            raise UserError(f"expected int64 labels and a list of ids in {type(images).__name__}: {'; '.join(notes)}")
        source: ImageSource = images
        return source

    def _check(self, split: str, images: ImageSource) -> None:
        """Refuse labels outside the classes, and ids that two images share."""
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= self.num_classes:
            hint = "; labels count from 0: subtract 1" if (low, high) == (1, self.num_classes) else ""
            raise UserError(
                f"{self.name} has {self.num_classes} classes, but an image of its {split} split "
                f"has the label {low if low < 0 else high}{hint}"
            )
        if len(set(images.ids)) < len(images.ids):
            (repeated, count), *_ = Counter(images.ids).most_common(1)
            raise UserError(
                f"{self.name} needs an id of its own for every image, but {count} images of its {split} split "
                f"have the id {repeated}: records are kept by it; rename them"
            )

    def _positions(self) -> list[int]:
        return self._select()

    def _select(self, usable: Callable[[int], bool] = lambda position: True) -> list[int]:
        """Choose as many test images as are attacked among those that are usable; all of a small split by default."""
        test = self._whole("test")
        if self._wanted is None and len(test) <= self.default_num_images:
            chosen = sorted(filter(usable, range(len(test))), key=test.ids.__getitem__)
        else:
            count = self._wanted or self.default_num_images
            chosen = select(test.ids, test.labels.tolist(), count, self.selection, self.seed, usable)
        if not chosen:
            raise UserError(f"{self.name}: none of the {len(test):,} test images can be read")
        self._chosen = len(chosen)
        return chosen

    @property
    def unreadable_images(self) -> dict[str, str]:
        """What is wrong with each of the images asked for that cannot be read, by its id; here all can."""
        return {}

    def attacked(self) -> ImageSource:
        """Return the attacked subset of the test split, ordered by id, without what cannot be read."""
        return self.images("test").take(self._positions())

    def share(self, finished: Collection[str], deal: Deal) -> None:
        """Have `test_dataloader` yield what one process of a run is to attack.

        Args:
            finished: Ids of images that are left out: an earlier attempt at the run has finished them.
            deal: Yields the chunks, each when the next batch is asked for.
        """
        self._finished = frozenset(finished)
        self._deal = deal

    def held_out(self) -> ImageSource:
        """Return the test images that are not attacked: those that a calibration may look at.

        Files that could not be read when the attacked images were chosen are not among them. No others are tried, so
        that there may be unreadable ones, which the loaders leave out.
        """
        attacked = set(self._positions())
        test = self.images("test")
        return test.take([i for i, name in enumerate(test.ids) if i not in attacked and name not in self._unreadable])

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
        return DataLoader(_Batches(images, self.augment), sampler=sampler, batch_size=None, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """The held-out images, in order of id; no loader where there are none."""
        return loader(self.images("validation"), self.batch_size, self.workers) if self.validation else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the attacked subset in order of id, or of it what `share` says.

        Shared images are read by the process itself when they are wanted: to read ahead would be to take what another
        process could attack.
        """
        attacked = self.attacked()
        left = attacked.take([i for i, image_id in enumerate(attacked.ids) if image_id not in self._finished])
        if self._deal is None:
            return loader(left, self.batch_size, self.workers)
        return DataLoader(_Batches(left), sampler=_Dealt(self._deal, len(left)), batch_size=None)


def loader(images: ImageSource, batch_size: int, workers: int = 0) -> DataLoader[Batch]:
    """Batches of `images` in their order, the last one as short as it is."""
    sampler = BatchSampler(SequentialSampler(images.ids), batch_size, drop_last=False)
    return DataLoader(_Batches(images), sampler=sampler, batch_size=None, num_workers=workers)

"""Any folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rfdlight.arguments import changed_arguments, text_of
from rfdlight.data.files import FileData, ImageFiles, Unreadable, class_folders, list_files
from rfdlight.documents import expanded
from rfdlight.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageFolder(FileData):
    """A folder of images of any size: `train/<class>/*` and `test/<class>/*` (or `val/<class>/*`).

    The classes are the folders of `train` in alphabetical order, or those of the test split where there is no
    `train`, which only `fit` needs. Files are read batch by batch.

    Args:
        root: The folder.
        mean: Per channel, in pixel units; by default those of ImageNet.
        std: Per channel, in pixel units; by default those of ImageNet.
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
        UserError: If there are no such folders or only one class, or a number is out of range.
    """

    name = "folder"
    default_victim = None
    reference_eps = 0.05
    unrelated = FileData.unrelated | {"root"}

    def __init__(
        self,
        root: str | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        num_images: int = 1000,
        selection: Literal["balanced", "first", "random"] = "balanced",
        seed: int = 0,
        batch_size: int = 128,
        size: int | None = None,
        validation: int = 0,
        unreadable: Unreadable = "quarantine",
        workers: int = 0,
    ) -> None:
        super().__init__(num_images, selection, seed, batch_size, size, validation, unreadable, workers)
        if root is None:
            raise UserError("the data folder needs its place: give --data.root FOLDER")
        self.root = expanded(root)
        if min(std) <= 0:
            raise UserError(f"data.std must be positive, got {list(std)}")
        self.mean = tuple(mean)
        self.std = tuple(std)
        folder = self._folder("train" if (self.root / "train").is_dir() else "test")
        self.classes = class_folders(folder)
        if len(self.classes) < 2:
            raise UserError(f"expected the folders of at least 2 classes in {folder}, found {self.classes[0]} alone")
        self.num_classes = len(self.classes)

    def describe(self) -> str:
        """Return the folder's own name, which a copy keeps, and the arguments that are not at their defaults."""
        named = f"{self.name} {text_of(self.root.resolve().name)}"
        return ", ".join([named, *changed_arguments(self, leave_out=self.unrelated)])

    def _folder(self, split: str) -> Path:
        if split == "test" and not (self.root / "test").is_dir() and (self.root / "val").is_dir():
            return self.root / "val"
        return self.root / split

    def load(self, split: Literal["train", "test"]) -> ImageFiles:
        """List the files of a split; an image's id is `folder/<split>/<class>/<file name>`."""
        paths, labels = list_files(self._folder(split), self.classes)
        ids = [f"folder/{split}/{path.parent.name}/{path.name}" for path in paths]
        return ImageFiles(paths, labels, ids, self.unreadable)

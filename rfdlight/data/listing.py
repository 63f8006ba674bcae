"""Listing of the image files in class folders, with an account of the files and folders that are left out."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rfdlight import _io
from rfdlight.data.decoding import SUFFIXES
from rfdlight.errors import UserError, shown, unknown_name

ClassOrder = Literal["text", "natural"]
"""Order of class folders: as text (1, 10, 2), as in torchvision, or by number (1, 2, 10), as in timm."""

_CLUTTER_FOLDERS = {
    "__MACOSX",
    "__pycache__",
    "@eaDir",
    "@Recycle",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
}
"""Folders that archive programs and storage systems leave behind, besides hidden ones."""

_CLUTTER_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""Files that they leave behind; they are not counted."""

_LISTED = 4
"""Folders, or class names, that a remark lists at most."""


@dataclass
class Listing:
    """The images below a folder of class folders.

    Attributes:
        folder: That folder.
        paths: Image files, in order of class and of path.
        labels: Index of each file's class.
        remarks: One sentence each about files that are left out or may not be meant.
    """

    folder: Path
    paths: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        """Return the path of each image below the folder, with slashes; its first part is the class folder."""
        return [path.relative_to(self.folder).as_posix() for path in self.paths]


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted as text, without hidden ones and clutter."""
    _, folders, _ = next(_walk(folder))
    return [name for name in folders if not _is_clutter(name)]


def class_folders(folder: Path, order: ClassOrder = "text") -> list[str]:
    """Return the names of the class folders below `folder`, in the order of their labels.

    Class folders and files may be links, also to places outside of the data root.
    """
    if not folder.is_dir():
        raise UserError(f"expected images as {folder}/<class>/<name>.jpg, there is no such folder")
    names = subfolders(folder)
    if not names:
        raise UserError(f"expected images as {folder}/<class>/<name>.jpg, found no class folders in {folder}")
    for name in names:
        _check_name(folder / name)
    return sorted(names, key=_natural_key) if order == "natural" else names


def order_remarks(names: Sequence[str], order: ClassOrder) -> list[str]:
    """Return remarks if the two orders of the classes differ, and if class names differ in case alone."""
    remarks = []
    orders: dict[ClassOrder, list[str]] = {"text": sorted(names), "natural": sorted(names, key=_natural_key)}
    if orders["text"] != orders["natural"]:
        other: ClassOrder = "natural" if order == "text" else "text"
        first = next(i for i in range(len(names)) if orders["text"][i] != orders["natural"][i])
        start = max(0, min(first, len(names) - 3))
        ours, theirs = (
            ", ".join(f"{name} = {start + i}" for i, name in enumerate(orders[each][start : start + 3]))
            for each in (order, other)
        )
        remarks.append(
            f"class order is {order} ({shown(ours)}); --data.class_order {other} gives {shown(theirs)}; a victim needs "
            "the order of its training"
        )
    folded = defaultdict(list)
    for name in names:
        folded[name.casefold()].append(name)
    remarks += [
        f"class folders {' and '.join(map(shown, alike))} differ in upper and lower case alone; each is a class"
        for alike in folded.values()
        if len(alike) > 1
    ]
    return remarks


def list_images(folder: Path, classes: Sequence[str]) -> Listing:
    """List the image files of all classes, including those in folders within class folders.

    Args:
        folder: Has one folder per class.
        classes: Names of the class folders, in the order of their labels; some may have no folder.
    """
    found = set(class_folders(folder))
    for name in sorted(found.difference(classes)):
        raise unknown_name(f"class folder in {folder}:", name, classes)
    listing, left_out = Listing(folder), _LeftOut()
    _, folders, files = next(_walk(folder))
    left_out.folders += filter(_is_clutter, folders)
    for file in files:
        left_out.add(file, folder.name)
    for label, name in enumerate(classes):
        paths = sorted(_images_below(folder, name, left_out)) if name in found else []
        listing.paths += paths
        listing.labels += [label] * len(paths)
    listing.remarks += left_out.remarks()
    if not listing.paths:
        more = "".join(f"; {remark}" for remark in listing.remarks)
        raise UserError(f"expected images as {folder}/<class>/<name>.jpg, found no {', '.join(sorted(SUFFIXES))}{more}")
    for path in listing.paths:
        _check_name(path)
    with_images = set(listing.labels)
    empty = [name for label, name in enumerate(classes) if label not in with_images]
    if empty:
        listing.remarks.append(f"no images of {_some(empty)}, which count among the {len(classes)} classes")
    return listing


class _LeftOut:
    """Files by kind and place, and folders, that hold no images of a class; places of images below class folders."""

    def __init__(self) -> None:
        self.files: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.folders: list[str] = []
        self.nested: Counter[str] = Counter()

    def add(self, file: str, place: str) -> None:
        if file not in _CLUTTER_FILES:
            kind = "hidden" if file.startswith(".") else Path(file).suffix.lower() or "without suffix"
            self.files[kind][place] += 1

    def remarks(self) -> list[str]:
        left_out = [f"{places.total():,} {kind} ({_counted(places)})" for kind, places in sorted(self.files.items())]
        if self.folders:
            left_out.append(f"the folders {_some(self.folders)}")
        remarks = [f"left out: {'; '.join(left_out)}"] if left_out else []
        if self.nested:
            remarks.append(f"images in folders within class folders count for the class: {_counted(self.nested)}")
        return remarks


def _images_below(folder: Path, name: str, left_out: _LeftOut) -> Iterator[Path]:
    """Yield the image files of a class folder and of the folders in it, except linked ones."""
    for parent, folders, files in _walk(folder / name):
        place = parent.relative_to(folder).as_posix()
        # A link may lead back, or out to a whole disk.
        skipped = [inner for inner in folders if _is_clutter(inner) or (parent / inner).is_symlink()]
        left_out.folders += [f"{place}/{inner}" for inner in skipped]
        folders[:] = [inner for inner in folders if inner not in skipped]
        for file in files:
            if Path(file).suffix.lower() in SUFFIXES and not file.startswith("."):
                if place != name:
                    left_out.nested[place] += 1
                yield parent / file
            else:
                left_out.add(file, place)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder and the sorted names of the folders and files in it, as `os.walk`, which recurses."""
    waiting = [folder]
    while waiting:
        parent = waiting.pop()
        try:
            with os.scandir(parent) as entries:
                found = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError as error:
            raise UserError(f"cannot list the folder {parent}: {error.strerror}") from error
        folders = [name for name, is_folder in found if is_folder]
        yield parent, folders, [name for name, is_folder in found if not is_folder]
        waiting += [parent / name for name in folders]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere
        return False


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name in _CLUTTER_FOLDERS


def _check_name(path: Path) -> None:
    """Refuse a name that is not UTF-8: ids are made of names, and seeds and records of ids."""
    if not _io.is_plain(path.name):
        raise UserError(f"expected names in UTF-8, got {shown(path)}: rename it")


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts numbers within names by value and ignores case, as timm does.

    Example:
        >>> sorted(["10", "9", "b", "A"], key=_natural_key)
        ['9', '10', 'A', 'b']
    """
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _counted(places: Counter[str]) -> str:
    """Return counts by place as text, those of many places together.

    Example:
        >>> _counted(Counter(cat=3, dog=1))
        '3 in cat, 1 in dog'
    """
    listed = sorted((place, count) for place, count in places.items() if count)
    rest = listed[_LISTED:]
    more = [f"{sum(count for _, count in rest):,} in {len(rest)} more folders"] if rest else []
    return ", ".join([*(f"{count:,} in {shown(place)}" for place, count in listed[:_LISTED]), *more])


def _some(names: Sequence[str]) -> str:
    """Return names as text, those beyond the first few as a number."""
    more = len(names) - _LISTED
    return ", ".join(map(shown, names[:_LISTED])) + (f" and {more} more" if more > 0 else "")

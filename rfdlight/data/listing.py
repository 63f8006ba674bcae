"""The image files of class folders, and an account of everything else that lies there."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rfdlight import _io
from rfdlight.data.decoding import SUFFIXES
from rfdlight.errors import UserError, shown, unknown_name

ClassOrder = Literal["text", "natural"]
"""How class folders are sorted: as text (1, 10, 2), as torchvision does, or by number (1, 2, 10), as timm does."""

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
"""Folders that archive programs and storage systems leave behind, besides those whose name begins with a dot."""

_CLUTTER_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""Files that they leave behind in every folder; no image is lost with them, so nothing is said of them."""

_LISTED = 4
"""Folders, or class names, that a remark lists at most."""


@dataclass
class Listing:
    """The images below a folder of class folders.

    Attributes:
        folder: That folder.
        paths: Image files, in order of class and of path.
        labels: Index of each file's class.
        remarks: One sentence each about what was left out or might not be meant.
    """

    folder: Path
    paths: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        """Return the path of each image below the folder, as text with slashes; its first part is the class folder."""
        return [path.relative_to(self.folder).as_posix() for path in self.paths]


def check_name(path: Path) -> None:
    """Refuse a file or folder whose name is no text: ids are made of names, and seeds and records of ids.

    Raises:
        UserError: If its name is not UTF-8.
    """
    if not _io.is_plain(path.name):
        raise UserError(f"expected names in UTF-8, got {shown(path)}: rename it")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts numbers within names by value and ignores case, as timm does.

    Example:
        >>> sorted(["10", "9", "b", "A"], key=natural_key)
        ['9', '10', 'A', 'b']
    """
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted as text, without hidden ones and clutter.

    Raises:
        UserError: If it cannot be listed.
    """
    return [entry.name for entry in _entries(folder) if _is_folder(entry) and not _is_clutter(entry)]


def class_folders(folder: Path, order: ClassOrder = "text") -> list[str]:
    """Return the names of the class folders below `folder`, in the order of their labels.

    Hidden folders, and those that archive programs and file systems leave behind, are no classes. Class folders and
    files may be links, also to places outside of the data root: data sets are often put together of links, and of a
    file that is no image nothing is shown.

    Raises:
        UserError: If there are none, the folder cannot be listed, or the name of one is not UTF-8.
    """
    if not folder.is_dir():
        raise UserError(f"expected images as {folder}/<class>/<name>.jpg, there is no such folder")
    names = subfolders(folder)
    if not names:
        raise UserError(f"expected images as {folder}/<class>/<name>.jpg, found no class folders in {folder}")
    for name in names:
        check_name(folder / name)
    return sorted(names, key=natural_key) if order == "natural" else names


def order_remarks(names: Sequence[str], order: ClassOrder) -> list[str]:
    """Say in which order classes are where another is usual, and which classes differ in upper and lower case alone."""
    remarks = []
    orders: dict[ClassOrder, list[str]] = {"text": sorted(names), "natural": sorted(names, key=natural_key)}
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
            "the order that it was trained with"
        )
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    remarks += [
        f"class folders {' and '.join(map(shown, alike))} differ in upper and lower case alone; each is a class"
        for alike in folded.values()
        if len(alike) > 1
    ]
    return remarks


def list_images(folder: Path, classes: Sequence[str]) -> Listing:
    """List the image files of all classes, also those in folders within class folders.

    Args:
        folder: Has one folder per class.
        classes: Names of the class folders, in the order of their labels; some may have no folder.

    Raises:
        UserError: If there are no images, a folder is none of the classes or cannot be listed, or a name is not UTF-8.
    """
    found = set(class_folders(folder))
    for name in sorted(found.difference(classes)):
        raise unknown_name(f"class folder in {folder}:", name, classes)
    listing, account = Listing(folder), _Account(folder)
    for label, name in enumerate(classes):
        paths = sorted(_images_below(folder / name, name, account)) if name in found else []
        listing.paths += paths
        listing.labels += [label] * len(paths)
    listing.remarks += account.remarks()
    if not listing.paths:
        told = "".join(f"; {remark}" for remark in listing.remarks)
        raise UserError(f"expected images as {folder}/<class>/<name>.jpg, found no {', '.join(sorted(SUFFIXES))}{told}")
    for path in listing.paths:
        check_name(path)
    with_images = set(listing.labels)
    empty = [name for label, name in enumerate(classes) if label not in with_images]
    if empty:
        listing.remarks.append(f"no images of {_some(empty)}, which count among the {len(classes)} classes")
    return listing


class _Account:
    """What lies among class folders and is no image of a class, or lies deeper than usual.

    Args:
        folder: Has one folder per class; what lies in it beside these is counted.
    """

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Counter[str]] = {}
        self.folders: list[str] = []
        self.nested: Counter[str] = Counter()
        for entry in _entries(folder):
            if not _is_folder(entry):
                self.leave_out(entry, folder.name)
            elif _is_clutter(entry):
                self.folders.append(entry.name)

    def leave_out(self, entry: os.DirEntry[str], place: str) -> None:
        """Count a file that is no image."""
        if entry.name not in _CLUTTER_FILES:
            kind = "hidden" if entry.name.startswith(".") else Path(entry.name).suffix.lower() or "without suffix"
            self.files.setdefault(kind, Counter())[place] += 1

    def remarks(self) -> list[str]:
        """Return one sentence per kind of thing."""
        left_out = [f"{places.total():,} {kind} ({_counted(places)})" for kind, places in sorted(self.files.items())]
        if self.folders:
            left_out.append(f"the folders {_some(self.folders)}")
        return [
            *([f"left out: {'; '.join(left_out)}"] if left_out else []),
            *(
                [f"images in folders within class folders count for the class: {_counted(self.nested)}"]
                * bool(self.nested)
            ),
        ]


def _images_below(folder: Path, place: str, account: _Account) -> list[Path]:
    """Return the image files of a class folder and of the folders in it; linked folders in it are left out."""
    images = []
    waiting = [(folder, place)]
    while waiting:
        inner, below = waiting.pop()
        for entry in _entries(inner):
            if _is_folder(entry):
                # A link may lead back, or out to a whole disk.
                if _is_clutter(entry) or entry.is_symlink():
                    account.folders.append(f"{below}/{entry.name}")
                else:
                    waiting.append((Path(entry.path), f"{below}/{entry.name}"))
            elif Path(entry.name).suffix.lower() in SUFFIXES and not entry.name.startswith("."):
                images.append(Path(entry.path))
                if below != place:
                    account.nested[below] += 1
            else:
                account.leave_out(entry, below)
    return images


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; a link that leads nowhere is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_clutter(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".") or entry.name in _CLUTTER_FOLDERS


def _counted(places: Counter[str]) -> str:
    """Return counts by place as text, those of many places together.

    Example:
        >>> _counted(Counter(cat=3, dog=1))
        '3 in cat, 1 in dog'
    """
    listed = sorted((place, count) for place, count in places.items() if count)
    told = [f"{count:,} in {shown(place)}" for place, count in listed[:_LISTED]]
    rest = listed[_LISTED:]
    return ", ".join([*told, *([f"{sum(n for _, n in rest):,} in {len(rest)} more folders"] if rest else [])])


def _some(names: Sequence[str]) -> str:
    """Return names as text, those beyond the first few as a number."""
    more = len(names) - _LISTED
    return ", ".join(map(shown, names[:_LISTED])) + (f" and {more} more" if more > 0 else "")

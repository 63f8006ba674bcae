"""Reading a class-folder tree of images, once, into a cached tensor."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rfdlight._io import replacing
from rfdlight.data.base import Images
from rfdlight.data.decoding import decode, read_bytes
from rfdlight.data.listing import Listing, list_images
from rfdlight.errors import UserError


def read_tree(listing: Listing, prefix: str, size: tuple[int, int], classes: Sequence[str]) -> Images:
    """Read the images of class folders.

    The decoded tensor is kept in the user's cache, under a name made from the content of every
    file, so that a changed image is never served from an old cache.

    Args:
        listing: The files, see `list_tree`.
        prefix: What an image's id begins with, before its file name.
        size: The height and width that every image must have.
        classes: The names that the class folders may have, in the order of the labels.

    Raises:
        UserError: If an image cannot be read or has another size.
    """
    files = listing.paths
    contents = [read_bytes(path) for path in files]
    digest = hashlib.sha256(json.dumps([prefix, size, list(classes)]).encode())
    for name, content in zip(listing.names(), contents, strict=True):
        digest.update(f"{name}:".encode())
        digest.update(hashlib.sha256(content).digest())

    def build() -> Images:
        pixels = torch.empty(len(files), 3, *size, dtype=torch.uint8)
        for row, (path, content) in enumerate(zip(files, contents, strict=True)):
            decoded = decode(path, content)
            if tuple(decoded.shape[1:]) != size:
                found = f"{decoded.shape[1]} x {decoded.shape[2]}"
                raise UserError(f"expected images of {size[0]} x {size[1]}, {path} has {found}")
            pixels[row] = decoded
        return Images(pixels, torch.tensor(listing.labels), [f"{prefix}/{path.name}" for path in files])

    return cached(digest.hexdigest(), build)


def list_tree(folder: Path, classes: Sequence[str]) -> Listing:
    """List the image files of `<folder>/<class>/`; they may be links.

    Args:
        folder: The folder of one split.
        classes: The names that the class folders may have, in the order of the labels. A label never depends on which
            of the folders are there.

    Raises:
        UserError: If there are no images, a folder is no class, two images have the same file name, or a name is not
            UTF-8.
    """
    listing = list_images(folder, classes)
    (name, copies), *_ = Counter(path.name for path in listing.paths).most_common(1)
    if copies > 1:
        raise UserError(f"expected one image per file name, found {name} {copies} times below {folder}")
    return listing


def cached(key: str, build: Callable[[], Images]) -> Images:
    """Return the images cached under `key`, or build and cache them.

    A missing, damaged or altered cache is rebuilt; one that cannot be written is done without.
    Processes may do this at the same time: a cache appears under its name only when it is whole.

    Args:
        key: A hash of everything that the images follow from.
        build: Makes the images.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rfdlight"
    path = home / f"{key}.safetensors"
    try:
        return _read_cache(path)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        images = build()
    # A full disk or a read-only home costs time at the next start, nothing else.
    with contextlib.suppress(OSError, UserError):
        _write_cache(path, images)
    return images


def _read_cache(path: Path) -> Images:
    with safe_open(path, "pt") as stored:
        facts = stored.metadata()
        images = Images(stored.get_tensor("pixels"), stored.get_tensor("labels"), json.loads(facts["ids"]))
    if _digest(images) != facts["sha256"]:
        raise ValueError(f"{path} has changed since it was written")
    return images


def _write_cache(path: Path, images: Images) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"pixels": images.pixels, "labels": images.labels}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"ids": json.dumps(images.ids), "sha256": _digest(images)})


def _digest(images: Images) -> str:
    digest = hashlib.sha256(json.dumps(images.ids).encode())
    digest.update(images.pixels.contiguous().numpy().data)
    digest.update(images.labels.contiguous().numpy().data)
    return digest.hexdigest()

"""Reading of a class-folder tree of small images into a tensor, which is cached."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rfdlight._io import replacing
from rfdlight.data.decoding import decode, read_bytes
from rfdlight.data.listing import Listing, list_images
from rfdlight.data.sources import Images
from rfdlight.errors import UserError


def list_tree(folder: Path, classes: Sequence[str]) -> Listing:
    """List the image files of `<folder>/<class>/`; labels do not depend on which class folders exist."""
    listing = list_images(folder, classes)
    (name, copies), *_ = Counter(path.name for path in listing.paths).most_common(1)
    if copies > 1:
        raise UserError(f"expected one image per file name, found {name} {copies} times below {folder}")
    return listing


def read_tree(listing: Listing, prefix: str, size: tuple[int, int], classes: Sequence[str]) -> Images:
    """Read the images of class folders, from a cache if there is one.

    The name of the cache is a hash of every file's content, so a changed image is never served from an old cache. A
    missing, damaged or altered cache is rebuilt; a cache that cannot be written is not needed.

    Args:
        listing: The files, see `list_tree`.
        prefix: Start of an image's id, before its file name.
        size: Height and width of every image.
        classes: Names of the classes, in the order of the labels.
    """
    contents = [read_bytes(path) for path in listing.paths]
    digest = hashlib.sha256(json.dumps([prefix, size, list(classes)]).encode())
    for name, content in zip(listing.names(), contents, strict=True):
        digest.update(f"{name}:".encode())
        digest.update(hashlib.sha256(content).digest())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rfdlight"
    cache = home / f"{digest.hexdigest()}.safetensors"
    try:
        return _read_cache(cache)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        pixels = torch.empty(len(contents), 3, *size, dtype=torch.uint8)
    for row, (path, content) in enumerate(zip(listing.paths, contents, strict=True)):
        decoded = decode(path, content)
        if tuple(decoded.shape[1:]) != size:
            found = f"{decoded.shape[1]} x {decoded.shape[2]}"
            raise UserError(f"expected images of {size[0]} x {size[1]}, {path} has {found}")
        pixels[row] = decoded
    images = Images(pixels, torch.tensor(listing.labels), [f"{prefix}/{path.name}" for path in listing.paths])
    # A full disk or a read-only home costs time at the next start, nothing else.
    with contextlib.suppress(OSError, UserError):
        _write_cache(cache, images)
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

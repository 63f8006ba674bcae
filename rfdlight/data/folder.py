"""Reading a class-folder tree of images, once, into a cached tensor."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rfdlight.data.base import Images
from rfdlight.errors import UserError

_SUFFIXES = {".png", ".jpg", ".jpeg"}


def read_tree(folder: Path, prefix: str, size: tuple[int, int]) -> Images:
    """Read `<folder>/<class>/<image>`; the classes are the folder names in alphabetical order.

    The decoded tensor is kept in the user's cache, under a name made from the content of every
    file, so that a changed image is never served from an old cache.

    Args:
        folder: The folder of one split.
        prefix: What an image's id begins with, before its file name.
        size: The height and width that every image must have.

    Raises:
        UserError: If there are no images, an image cannot be read or has another size, or two
            images have the same file name.
    """
    files = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise UserError(f"expected images as {folder}/<class>/<name>.png, found none")
    contents = [path.read_bytes() for path in files]
    digest = hashlib.sha256(repr(size).encode())
    for path, content in zip(files, contents, strict=True):
        digest.update(f"{path.parent.name}/{path.name}:".encode())
        digest.update(hashlib.sha256(content).digest())
    return cached(digest.hexdigest(), lambda: _decode(files, contents, prefix, size))


def cached(key: str, build) -> Images:  # noqa: ANN001
    """Return the images cached under `key`, or build and cache them; a damaged cache is rebuilt."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rfdlight"
    path = home / f"{key}.safetensors"
    try:
        with safe_open(path, "pt") as stored:
            ids = json.loads(stored.metadata()["ids"])
            return Images(stored.get_tensor("pixels"), stored.get_tensor("labels"), ids)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        images = build()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=home, delete=False) as partial:
            tensors = {"pixels": images.pixels, "labels": images.labels}
            save_file(tensors, partial.name, metadata={"ids": json.dumps(images.ids)})
        os.replace(partial.name, path)
    except OSError:
        pass  # a read-only home costs time at the next start, nothing else
    return images


def _decode(files: list[Path], contents: list[bytes], prefix: str, size: tuple[int, int]) -> Images:
    import io

    classes = sorted({path.parent.name for path in files})
    pixels = torch.empty(len(files), 3, *size, dtype=torch.uint8)
    for row, (path, content) in enumerate(zip(files, contents, strict=True)):
        try:
            with Image.open(io.BytesIO(content)) as image:
                found = (image.height, image.width)
                if found != size:
                    raise UserError(f"expected images of {size[0]} x {size[1]}, {path} has {found[0]} x {found[1]}")
                decoded = np.asarray(image.convert("RGB")).copy()
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"cannot read the image {path}: {error}") from error
        pixels[row] = torch.from_numpy(decoded).permute(2, 0, 1)
    labels = torch.tensor([classes.index(path.parent.name) for path in files])
    ids = [f"{prefix}/{path.name}" for path in files]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"expected one image per file name, found {twice} twice below {files[0].parents[1]}")
    return Images(pixels, labels, ids)

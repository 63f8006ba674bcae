"""Decoding of untrusted image files: bounded in size, and no format that is a program."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from rfdlight import _io
from rfdlight.errors import UserError, one_line

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
"""Suffixes of image files, in lower case; upper case counts as well."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""Formats that are decoded, whatever the suffix is; some others that Pillow decodes, such as EPS, are programs."""

_MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = {b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf"}
"""PNG chunks that no pixel depends on, and that may be compressed to a thousandth."""


def read_bytes(path: Path) -> bytes:
    """Return the content of an image file."""
    try:
        return _io.read_bytes(path)
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror}") from error


def decode(path: Path, content: bytes, channels: int = 3) -> Tensor:
    """Decode an image file as RGB or grey, (channels, H, W) uint8; see `pixels_of`.

    Colour profiles, texts and the EXIF orientation are not applied, as in torchvision.

    Args:
        path: For the message.
        content: Of the file.
        channels: 3 for RGB, 1 for grey.

    Raises:
        UserError: If it is damaged, too large, or of another format than PNG, JPEG, WebP and BMP; with Pillow's reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata
            # Pillow only warns of images of more pixels than its bound; two of these would fill a small memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(_without_metadata(content)), formats=_FORMATS) as image:
                return pixels_of(image, channels)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        reason = f"expected at most {Image.MAX_IMAGE_PIXELS:,} pixels, got more"
        raise UserError(f"cannot read the image {path}: {reason}") from error
    except UnidentifiedImageError as error:
        found = "it is damaged or of another format" if content else "the file is empty"
        raise UserError(f"cannot read the image {path}: expected PNG, JPEG, WebP or BMP, {found}") from error
    except Exception as error:  # Pillow's decoders raise anything at a damaged file
        raise UserError(f"cannot read the image {path}: {one_line(error) or type(error).__name__}") from error


def pixels_of(image: Image.Image, channels: int = 3) -> Tensor:
    """Convert a Pillow image to RGB or grey, (channels, H, W) uint8.

    Grey values of 16 bits are divided by 257. Alpha channels are dropped; Pillow converts palettes and CMYK.
    """
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image), mode))
    elif mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    decoded = np.array(image.convert(_MODES[channels]))  # (H, W, 3) or (H, W)
    return torch.from_numpy(decoded.reshape(*decoded.shape[:2], channels)).permute(2, 0, 1)


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Scale the 16-bit grey values of an image to 8 bits; Pillow itself would clip them to white."""
    high = float(values.max(initial=0))
    if mode == "F" or not 0 <= float(values.min(initial=0)) <= high <= 65_535:
        raise UserError(f"expected grey values of 8 or 16 bits, got mode {mode} with values up to {high:g}")
    if 0 < high <= 255:
        raise UserError(f"expected 16-bit grey values up to 65,535, got none above {high:g}; save it with 8 bits")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _without_metadata(content: bytes) -> bytes:
    """Return a PNG without its profile and texts, other files as they are.

    Pillow decompresses these chunks, up to 1 MB of each, and rejects a sound image with a larger one.
    """
    if not content.startswith(_PNG_SIGNATURE):
        return content
    return _PNG_SIGNATURE + b"".join(chunk for chunk in _png_chunks(content) if chunk[4:8] not in _PNG_METADATA)


def _png_chunks(content: bytes) -> Iterator[bytes]:
    """Yield each chunk: length, type, content and checksum; the last one may be cut off."""
    start = len(_PNG_SIGNATURE)
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4])
        yield content[start:end]
        start = end

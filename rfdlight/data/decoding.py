"""Decoding of untrusted image files: bounded in size, and no format that is a program."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from rfdlight import _io
from rfdlight.errors import UserError, one_line

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""Formats that are decoded, whatever the suffix is; some others that Pillow decodes, such as EPS, are programs."""

_MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels."""


def read_bytes(path: Path) -> bytes:
    """Return the content of an image file."""
    try:
        return _io.read_bytes(path)
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror}") from error


def decode(path: Path, content: bytes, channels: int = 3) -> Tensor:
    """Decode the content of an image file as RGB or grey, (channels, H, W) uint8; see `pixels_of`.

    Colour profiles and the EXIF orientation are not applied, as in torchvision.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata
            # Pillow only warns of images of more pixels than its bound; two of these would fill a small memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                return pixels_of(image, channels)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        reason = f"expected at most {Image.MAX_IMAGE_PIXELS:,} pixels, got more"
        raise UserError(f"cannot read the image {path}: {reason}") from error
    except UnidentifiedImageError as error:
        reason = "expected PNG, JPEG, WebP or BMP, it is damaged or of another format"
        raise UserError(f"cannot read the image {path}: {reason}") from error
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
    fits = mode != "F" and values.min(initial=0) >= 0 and (high == 0 or 255 < high <= 65_535)
    if not fits:
        raise UserError(f"expected grey values of 8 bits, or of 16 bits up to 65,535, got {mode} with at most {high:g}")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)

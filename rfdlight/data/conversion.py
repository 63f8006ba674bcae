"""Conversion of pixels, labels and ids to one form.

The functions append one sentence per conversion to `notes`, and refuse values whose meaning is not certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rfdlight._io import is_plain
from rfdlight.data.decoding import pixels_of
from rfdlight.errors import UserError, one_line, shown

_ROUNDING = 1e-5
"""How far floats may lie outside [0, 1] by rounding; they are clipped."""

_PIXELS = "uint8 from 0 to 255 or floats in [0, 1]"


def unit_range(pixels: Tensor) -> Tensor:
    """Return pixels as float32 in [0, 1]: uint8 divided by 255, floats as they are.

    Args:
        pixels: Of any shape, uint8 or floats in [0, 1].

    Raises:
        UserError: If they have another dtype.
    """
    if pixels.dtype == torch.uint8:
        return pixels.float().div_(255)
    if not pixels.is_floating_point():
        raise UserError(f"pixels: expected {_PIXELS}, got {_dtype(pixels)}")
    return pixels.float()


def check_batch(batch: Any) -> tuple[Tensor, Tensor, list[str]]:
    """Return a batch of a test loader, which a user's data module may have overridden.

    Raises:
        UserError: If it is not (pixels (rows, C, H, W) float32, labels (rows,) int64, ids).
    """
    parts = batch if isinstance(batch, tuple | list) else [batch]
    got = [f"{_dtype(part)} {_shape(part)}" if isinstance(part, Tensor) else kind_of(part) for part in parts]
    forms = [(part.dtype, part.ndim) for part in parts if isinstance(part, Tensor)]
    if len(got) == 3 and forms == [(torch.float32, 4), (torch.int64, 1)]:
        pixels, labels, ids = parts
        if len(pixels) == len(labels) == len(ids) and all(isinstance(name, str) for name in ids):
            return pixels, labels, list(ids)
    raise UserError(
        "test_dataloader: expected (pixels, labels, ids) with float32 (rows, C, H, W), int64 (rows,) and text, got "
        f"({', '.join(got)}); leave test_dataloader alone and define load"
    )


def as_pixels(raw: Any, channels: int | None, notes: list[str]) -> Tensor:
    """Convert images to (N, C, H, W), uint8 or float32 in [0, 1].

    Args:
        raw: A tensor, an array, or a list of tensors, arrays or Pillow images. NCHW, NHWC, or (N, H, W) if there is
            one channel; bool, uint8, uint16 of the full range, other integers from 0 to 255, or floats in [0, 1].
        channels: Of the data; None if unknown, then only NCHW is accepted.
        notes: Conversions are appended here.
    """
    if isinstance(raw, list | tuple):
        if not raw:
            raise UserError("pixels: expected at least one image, got none")
        raw = joined("pixels", [as_tensor("pixels", image, channels or 3)[None] for image in raw])
        notes.append("a list of images is stacked")
    pixels = as_tensor("pixels", raw)
    return _unit_or_bytes(_channels_first(pixels, channels, notes), notes)


def as_labels(raw: Any, classes: int | None, notes: list[str]) -> Tensor:
    """Convert class indices to (N,) int64; their range is not checked.

    Args:
        raw: A tensor, an array or a list of whole numbers of any dtype, as a vector, a column, or one-hot rows.
        classes: Of the data; None if unknown, then one-hot rows are refused.
        notes: Conversions are appended here.
    """
    labels = as_tensor("labels", raw)
    expected = "labels: expected (N,) class indices from 0" + ("" if classes is None else f" to {classes - 1}")
    if labels.is_complex() or (labels.is_floating_point() and not bool((labels == labels.trunc()).all())):
        raise UserError(f"{expected}, got {_dtype(labels)} that are not whole numbers; soft labels: take their argmax")
    if labels.dtype != torch.int64:
        notes.append(f"labels of {_dtype(labels)} are used as int64")
        labels = labels.long()
    if labels.ndim == 2 and labels.shape[1] == 1:
        notes.append("a column of labels is used as a vector")
        return labels[:, 0]
    if labels.ndim == 2 and labels.shape[1] == classes:
        if not (bool(((labels == 0) | (labels == 1)).all()) and bool((labels.sum(1) == 1).all())):
            raise UserError(f"{expected} or one-hot rows, got rows without exactly one 1")
        notes.append("one-hot labels are used as class indices")
        return labels.argmax(1)
    if labels.ndim != 1:
        raise UserError(f"{expected}, got the shape {_shape(labels)}")
    return labels


def as_ids(raw: Any, notes: list[str]) -> list[str]:
    """Convert image ids to a list of text.

    Args:
        raw: A sequence of text, or a NumPy array of it.
        notes: Conversions are appended here.
    """
    hint = "an id must name its image in every run, such as f'my_data/test/{number:05d}'"
    if isinstance(raw, np.ndarray) and raw.ndim == 1:
        notes.append("an array of ids is used as a list")
        raw = raw.tolist()
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise UserError(f"ids: expected a list of text, got {kind_of(raw)}; {hint}")
    for position, name in enumerate(raw):
        if not isinstance(name, str):
            raise UserError(f"ids: expected text, got {kind_of(name)} at position {position}; {hint}")
        if not name or not is_plain(name):
            raise UserError(f"ids: expected text in UTF-8, got '{shown(name)}' at position {position}; {hint}")
    return [str(name) for name in raw]


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse means and standard deviations that are not those of pixels in [0, 1].

    Raises:
        UserError: If they are of different numbers of channels, or out of range.
    """
    if len(mean) != len(std) or not mean:
        raise UserError(f"mean, std: expected one of each per channel, got {len(mean)} and {len(std)}")
    if not all(0 <= value <= 1 for value in mean):
        raise UserError(f"mean: expected means of pixels in [0, 1], got {list(mean)}; divide mean and std by 255")
    if not all(0 < value <= 1 for value in std):
        raise UserError(f"std: expected positive deviations of pixels in [0, 1], got {list(std)}")


def as_tensor(what: str, raw: Any, channels: int = 3) -> Tensor:
    """Convert a tensor, an array, a Pillow image or nested lists of numbers to a dense tensor on the CPU."""
    if isinstance(raw, Image.Image):
        return pixels_of(raw, channels)
    try:
        if isinstance(raw, Tensor):
            return (raw if raw.layout == torch.strided else raw.to_dense()).detach().cpu()
        if isinstance(raw, list | tuple) and raw and all(isinstance(each, Tensor) for each in raw):
            return torch.stack([each.detach().cpu() for each in raw])
        array = np.array(raw)
        if array.dtype.kind not in "biufc":
            raise TypeError(f"values of type {array.dtype}")
        native = array.astype(array.dtype.newbyteorder("="))
        return torch.from_numpy(native.astype(np.float64) if native.dtype.itemsize > 8 else native)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        hint = "; names of classes: give their indices" if what == "labels" else ""
        raise UserError(f"{what}: expected numbers, got {kind_of(raw)}: {one_line(error)}{hint}") from error


def joined(what: str, parts: list[Tensor]) -> Tensor:
    """Concatenate tensors (rows, ...)."""
    for part in parts:
        if (part.shape[1:], part.dtype) != (parts[0].shape[1:], parts[0].dtype):
            both = " and ".join(f"{tuple(each.shape[1:])} {_dtype(each)}" for each in (parts[0], part))
            hint = "; resize them first" if what == "pixels" else ""
            raise UserError(f"{what}: expected one shape and dtype, got {both}{hint}")
    return torch.cat(parts)


def _channels_first(pixels: Tensor, channels: int | None, notes: list[str]) -> Tensor:
    if pixels.ndim == 3 and channels == 1:
        notes.append("grey images (N, H, W) are used as (N, 1, H, W)")
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and channels and pixels.shape[1] != channels and pixels.shape[3] == channels:
        notes.append("pixels in NHWC are used as NCHW")
        pixels = pixels.permute(0, 3, 1, 2)
    if channels is None:
        expected, hint = "(N, C, H, W)", "; pixels in NHWC: permute(0, 3, 1, 2)"
        wrong = pixels.ndim == 4 and pixels.shape[3] in (1, 3) and pixels.shape[1] not in (1, 3)
    else:
        expected, hint = f"(N, {channels}, H, W)", "; mean and std need one value per channel: repeat a grey channel"
        wrong = pixels.ndim == 4 and pixels.shape[1] != channels
    if wrong or pixels.ndim != 4 or 0 in pixels.shape[1:]:
        raise UserError(f"pixels: expected {expected}, got {_shape(pixels)}{hint}")
    return pixels


def _unit_or_bytes(pixels: Tensor, notes: list[str]) -> Tensor:
    """Convert pixels to uint8 from 0 to 255 or float32 in [0, 1], by their dtype and range."""
    if pixels.is_complex():
        raise UserError(f"pixels: expected {_PIXELS}, got {_dtype(pixels)}")
    if pixels.dtype == torch.bool:
        notes.append("bool pixels are used as 0 and 1, black and white")
        return pixels.to(torch.uint8) * 255
    if pixels.numel() == 0:
        return pixels.to(torch.uint8)
    wide = pixels.dtype in (torch.uint16, torch.uint32, torch.uint64)  # torch has no minimum of these
    low, high = (float(value) for value in torch.aminmax(pixels.long() if wide else pixels))
    expected = f"pixels: expected {_PIXELS}, got {_dtype(pixels)} from {low:.4g} to {high:.4g}"
    darkest = 1.001 / 255 if pixels.is_floating_point() else 1
    if low == high == 0:
        notes.append("every pixel is 0: all images are black")
    elif low >= 0 and high <= darkest:
        hint = "divided by 255 twice?" if darkest < 1 else "give bool, or floats in [0, 1] before they become whole"
        raise UserError(f"{expected}: almost black; {hint}")
    if pixels.is_floating_point() and low >= -_ROUNDING and high <= 1 + _ROUNDING:
        form = "as they are" if pixels.dtype == torch.float32 else "as float32"
        clipped = "" if low >= 0 and high <= 1 else ", clipped by at most 1e-5"
        notes.append(f"pixels of {_dtype(pixels)} in [0, 1] are used {form}{clipped}")
        return pixels.float().clamp(0, 1)
    if pixels.dtype == torch.uint16 and high >= 2**15:
        notes.append("pixels of uint16 are divided by 65535")
        return pixels.double().div_(65_535).float()
    whole = not pixels.is_floating_point() or bool((pixels == pixels.trunc()).all())
    if not (whole and low >= 0 and high <= 255):
        raise UserError(f"{expected}; {_range_hint(low, high)}")
    if pixels.dtype != torch.uint8:
        notes.append(f"pixels of {_dtype(pixels)} from 0 to 255 are used as uint8")
    return pixels.to(torch.uint8)


def _range_hint(low: float, high: float) -> str:
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        return "replace NaN and infinite values"
    if low < 0:
        return "undo the normalisation, for instance pixels * std + mean; the victim normalises"
    return "divide by 255" if high <= 255 else "divide by the largest possible value"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def kind_of(value: object) -> str:
    """Return the type of a value for a message, with the value if it is a number."""
    number = f" {shown(f'{value!r:.40}')}" if isinstance(value, int | float) else ""
    return f"{type(value).__name__}{number}"

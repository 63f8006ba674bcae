"""Conversion of the pixels, labels and ids of a user's data to one form, or one line that says what is wrong.

Every function appends to `notes` what it changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

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
    """Return a batch of a test loader, which a data module of a user's own may have made.

    Raises:
        UserError: If it is not (pixels (rows, C, H, W) float32, labels (rows,) int64, ids).
    """
    expected = "test_dataloader: expected (pixels, labels, ids) with float32 (rows, C, H, W), int64 (rows,) and text"
    if not isinstance(batch, tuple | list) or len(batch) != 3:
        raise UserError(f"{expected}, got {_kind(batch)}; leave test_dataloader alone and define load")
    pixels, labels, ids = batch
    if not (isinstance(pixels, Tensor) and isinstance(labels, Tensor) and isinstance(ids, tuple | list)):
        raise UserError(f"{expected}, got {', '.join(map(_kind, batch))}")
    if (pixels.dtype, pixels.ndim) != (torch.float32, 4) or (labels.dtype, labels.ndim) != (torch.int64, 1):
        found = (f"{_dtype(part)} {_shape(part)}" for part in (pixels, labels))
        raise UserError(f"{expected}, got {' and '.join(found)}")
    if not len(pixels) == len(labels) == len(ids) or not all(isinstance(name, str) for name in ids):
        raise UserError(f"{expected}, got {len(pixels)} pixels, {len(labels)} labels and {len(ids)} ids")
    return pixels, labels, list(ids)


def as_pixels(raw: Any, channels: int, notes: list[str]) -> Tensor:
    """Convert images to (N, channels, H, W), uint8 or float32 in [0, 1].

    Args:
        raw: A tensor, an array, or a list of tensors, arrays or images of Pillow. NCHW, NHWC, or (N, H, W) if there is
            one channel; bool, uint8, uint16 of the full range, other whole numbers from 0 to 255, or floats in [0, 1].
        channels: Of the data.
        notes: What is changed is appended here.

    Raises:
        UserError: If it is none of these: for instance normalised, with NaN, or divided by 255 twice.
    """
    if isinstance(raw, list | tuple):
        if not raw:
            raise UserError("pixels: expected at least one image, got none")
        raw = _stacked([_tensor("pixels", image, channels) for image in raw])
        notes.append("a list of images is stacked")
    pixels = _tensor("pixels", raw, channels)
    return _unit_or_bytes(_channels_first(pixels, channels, notes), notes)


def as_labels(raw: Any, classes: int, notes: list[str]) -> Tensor:
    """Convert class indices to (N,) int64.

    Args:
        raw: A tensor, an array or a list of whole numbers of any dtype, as a vector, a column, or one-hot rows.
        classes: Of the data; whether the indices lie within is not checked here.
        notes: What is changed is appended here.

    Raises:
        UserError: If it is none of these.
    """
    labels = _tensor("labels", raw)
    expected = f"labels: expected (N,) class indices from 0 to {classes - 1}"
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
            raise UserError(f"{expected} or one-hot rows, got rows that have not exactly one 1")
        notes.append("one-hot labels are used as class indices")
        return labels.argmax(1)
    if labels.ndim != 1:
        raise UserError(f"{expected}, got the shape {_shape(labels)}")
    return labels


def as_ids(raw: Any, notes: list[str]) -> list[str]:
    """Convert image ids to a list of text.

    Args:
        raw: A sequence of text, or a NumPy array of it.
        notes: What is changed is appended here.

    Raises:
        UserError: If one is no text, empty or not UTF-8.
    """
    hint = "an id must name its image in every run, such as f'my_data/test/{number:05d}'"
    if isinstance(raw, np.ndarray) and raw.ndim == 1:
        notes.append("an array of ids is used as a list")
        raw = raw.tolist()
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise UserError(f"ids: expected a list of text, got {_kind(raw)}; {hint}")
    for position, name in enumerate(raw):
        if not isinstance(name, str):
            raise UserError(f"ids: expected text, got {_kind(name)} at position {position}; {hint}")
        if not name or not is_plain(name):
            raise UserError(f"ids: expected text in UTF-8, got '{shown(name)}' at position {position}; {hint}")
    return [str(name) for name in raw]


def read_dataset(dataset: Dataset[Any] | DataLoader[Any]) -> tuple[list[Any], list[Any], list[Any] | None]:
    """Read all items of a map-style dataset: images, labels and, where items have three parts, ids.

    Raises:
        UserError: If it has no fixed order, its items are no (image, label) or (image, label, id), or reading one
            twice gives two images.
    """
    if isinstance(dataset, DataLoader | IterableDataset) or not hasattr(dataset, "__len__"):
        raise UserError(
            f"expected a dataset with __len__ and __getitem__, got {_kind(dataset)}, which may shuffle: "
            "return loader.dataset, or pixels, labels and ids"
        )
    try:
        items = [dataset[position] for position in range(len(dataset))]
        again = [dataset[0]] if items else []
    except Exception as error:  # a user's own code may raise anything
        raise UserError(f"the dataset raised {type(error).__name__}: {one_line(error)}") from error
    if not items:
        raise UserError("expected a dataset with at least one image, got an empty one")
    for position, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) not in (2, 3) or len(item) != len(items[0]):
            raise UserError(f"expected items (image, label) or (image, label, id), got {_kind(item)} at {position}")
    if not np.array_equal(np.asarray(items[0][0]), np.asarray(again[0][0])):
        raise UserError("the dataset gives another image 0 each time; leave random transforms out of the test images")
    images, labels, *ids = zip(*items, strict=True)
    return list(images), list(labels), list(ids[0]) if ids else None


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse means and standard deviations that are none of pixels in [0, 1].

    Raises:
        UserError: If they are of different numbers of channels, or out of range.
    """
    if len(mean) != len(std) or not mean:
        raise UserError(f"mean, std: expected one of each per channel, got {len(mean)} and {len(std)}")
    if not all(0 <= value <= 1 for value in mean):
        raise UserError(f"mean: expected means of pixels in [0, 1], got {list(mean)}; divide mean and std by 255")
    if not all(0 < value <= 1 for value in std):
        raise UserError(f"std: expected positive deviations of pixels in [0, 1], got {list(std)}")


def _tensor(what: str, raw: Any, channels: int = 3) -> Tensor:
    """Return a tensor, an array, an image of Pillow or nested lists of numbers as a dense tensor on the CPU."""
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
        raise UserError(f"{what}: expected numbers, got {_kind(raw)}: {one_line(error)}{hint}") from error


def _stacked(images: list[Tensor]) -> Tensor:
    for image in images:
        if (image.shape, image.dtype) != (images[0].shape, images[0].dtype):
            both = " and ".join(f"{_shape(each)} {_dtype(each)}" for each in (images[0], image))
            raise UserError(f"pixels: expected images of one shape and dtype, got {both}; resize them first")
    return torch.stack(images)


def _channels_first(pixels: Tensor, channels: int, notes: list[str]) -> Tensor:
    expected = f"pixels: expected (N, {channels}, H, W), as mean and std have {channels} values"
    if pixels.ndim == 3 and channels == 1:
        notes.append("grey images (N, H, W) are used as (N, 1, H, W)")
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[1] != channels and pixels.shape[3] == channels:
        notes.append("pixels in NHWC are used as NCHW")
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] != channels or 0 in pixels.shape[2:]:
        grey = pixels.ndim == 3 or (pixels.ndim == 4 and 1 in (pixels.shape[1], pixels.shape[3]))
        hint = "; grey images: give mean and std one value each, or repeat the channel" if grey else ""
        raise UserError(f"{expected}, got {_shape(pixels)}{hint}")
    return pixels


def _unit_or_bytes(pixels: Tensor, notes: list[str]) -> Tensor:
    """Return pixels as uint8 from 0 to 255 or float32 in [0, 1], by what their dtype and range can mean."""
    if pixels.is_complex():
        raise UserError(f"pixels: expected {_PIXELS}, got {_dtype(pixels)}")
    if pixels.dtype == torch.bool:
        notes.append("bool pixels are used as 0 and 1, black and white")
        return pixels.to(torch.uint8) * 255
    if pixels.numel() == 0:
        return pixels.to(torch.uint8)
    wide = pixels.dtype in (torch.uint16, torch.uint32, torch.uint64)  # of which torch finds no least
    low, high = (float(value) for value in torch.aminmax(pixels.long() if wide else pixels))
    darkest = 1.001 / 255 if pixels.is_floating_point() else 1
    if low == high == 0:
        notes.append("every pixel is 0: all images are black")
    elif low >= 0 and high <= darkest:
        hint = "divided by 255 twice?" if darkest < 1 else "give bool, or floats in [0, 1] before they become whole"
        raise UserError(f"pixels: expected {_PIXELS}, {_got(pixels, low, high)}: almost black; {hint}")
    if pixels.is_floating_point() and low >= -_ROUNDING and high <= 1 + _ROUNDING:
        form = "as they are" if pixels.dtype == torch.float32 else "as float32"
        clipped = "" if low >= 0 and high <= 1 else ", clipped by at most 1e-5"
        notes.append(f"pixels of {_dtype(pixels)} in [0, 1] are used {form}{clipped}")
        return pixels.float().clamp(0, 1)
    return _bytes(pixels, low, high, notes)


def _bytes(pixels: Tensor, low: float, high: float, notes: list[str]) -> Tensor:
    """Return whole numbers from 0 to 255 as uint8, uint16 of the full range as float32 in [0, 1]."""
    if pixels.dtype == torch.uint16 and high >= 2**15:
        notes.append("pixels of uint16 are divided by 65535")
        return pixels.double().div_(65_535).float()
    whole = not pixels.is_floating_point() or bool((pixels == pixels.trunc()).all())
    if not (whole and low >= 0 and high <= 255):
        raise UserError(f"pixels: expected {_PIXELS}, {_got(pixels, low, high)}; {_range_hint(low, high)}")
    if pixels.dtype != torch.uint8:
        notes.append(f"pixels of {_dtype(pixels)} from 0 to 255 are used as uint8")
    return pixels.to(torch.uint8)


def _got(pixels: Tensor, low: float, high: float) -> str:
    return f"got {_dtype(pixels)} from {low:.4g} to {high:.4g}"


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


def _kind(value: object) -> str:
    """Return what a value is, as a message may show it."""
    return (
        f"{type(value).__name__} {shown(f'{value!r:.40}')}" if isinstance(value, int | float) else type(value).__name__
    )

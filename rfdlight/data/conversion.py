"""Conversion of a user's pixels, labels and ids to one form; values whose meaning is not certain are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from rfdlight._io import is_plain
from rfdlight.core.user_code import described
from rfdlight.data.decoding import pixels_of
from rfdlight.data.sources import Images, ImageSource
from rfdlight.errors import UserError, one_line, shown

_ROUNDING = 1e-5
"""How far floats may lie outside [0, 1] by rounding; they are clipped."""

_FORMS = "(images, labels), (images, labels, ids), or an iterable of (image, label) or (image, label, id)"


def unit_range(pixels: Tensor) -> Tensor:
    """Return pixels of any shape as float32 in [0, 1]: uint8 divided by 255, floats as they are."""
    if pixels.dtype == torch.uint8:
        return pixels.float().div_(255)
    if not pixels.is_floating_point():
        raise UserError(f"pixels: expected uint8 from 0 to 255 or floats in [0, 1], got {_dtype(pixels)}")
    return pixels.float()


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse means and standard deviations that are not those of pixels in [0, 1], such as those of 0 to 255.

    A deviation of 1 leaves pixels as they are. A network may take smaller pixels, such as those divided by 256.
    """
    if len(mean) != len(std) or not mean:
        raise UserError(f"mean, std: expected one of each per channel, got {len(mean)} and {len(std)}")
    if not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 2 for value in std):
        expected = "means and positive deviations of pixels in [0, 1]"
        raise UserError(f"mean, std: expected {expected}, got {list(mean)} and {list(std)}; divide by 255")


def as_source(data: Any, prefix: str, classes: int | None, channels: int | None) -> ImageSource:
    """Convert data to an image source whose labels, ids and pixels are checked.

    Data are an `ImageSource`; (x, y) or (x, y, ids) with x (N, C, H, W); or an iterable, such as a dataset or a loader,
    of such batches, or of items with x (C, H, W) and a number y. Without ids, positions make them: "<prefix>/00000".
    Numbers of classes and channels are None if unknown; NHWC needs a known one.
    """
    images = data if isinstance(data, ImageSource) else Images(*_columns(data, channels))
    changed: dict[str, Any] = {}
    if isinstance(images, Images):
        changed["pixels"] = _pixels(images.pixels, channels)
    count = len(changed.get("pixels", images.ids))
    changed["labels"] = labels = _labels(images.labels, classes)
    made = [f"{prefix}/{position:05d}" for position in range(count)]
    changed["ids"] = ids = made if images.ids is None else _ids(images.ids)
    if not count == len(labels) == len(ids):
        raise UserError(
            f"expected as many labels and ids as images, got {count:,} pixels, {len(labels):,} labels and "
            f"{len(ids):,} ids"
        )
    if count == 0:
        raise UserError("expected at least one image, got none")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        last = "" if classes is None else f" to {classes - 1}"
        raise UserError(f"labels: expected class indices from 0{last}, got the label {low if low < 0 else high}")
    if len(set(ids)) < len(ids):
        (repeated, copies), *_ = Counter(ids).most_common(1)
        raise UserError(f"ids: expected an id of its own for every image, got {repeated} {copies} times; rename them")
    return replace(images, **changed)  # type: ignore[type-var]


def _columns(data: Any, channels: int | None) -> tuple[Any, Any, Any]:
    """Return all images, labels and ids; None for ids if there are none."""
    first = data[0] if isinstance(data, tuple | list) and len(data) in (2, 3) else None
    if isinstance(first, Tensor | np.ndarray) or (isinstance(data, tuple) and isinstance(first, list)):
        return data[0], data[1], data[2] if len(data) == 3 else None
    images: list[Tensor] = []
    labels: list[Tensor] = []
    ids: list[Any] = []
    for part in _parts(data):
        if not isinstance(part, tuple | list) or len(part) not in (2, 3):
            raise UserError(f"expected {_FORMS}, got {_kind(part)}")
        image, label = _as_tensor("pixels", part[0], channels or 3), _as_tensor("labels", part[1])
        single = image.ndim == 3
        images.append(image[None] if single else image)
        labels.append(label[None] if single else label)
        if len(part) == 3:
            ids += [part[2]] if single or isinstance(part[2], str | int) else part[2]
    if not images:
        raise UserError("expected at least one image, got none")
    if not ids and isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler):
        raise UserError("expected ids or a fixed order, got a loader that shuffles; give loader.dataset")
    return _joined("pixels", images), _joined("labels", labels), ids or None


def _parts(data: Any) -> Iterator[Any]:
    """Yield the items of a map-style dataset, which must not be random, or of another iterable."""
    try:
        if not hasattr(data, "__getitem__") or isinstance(data, IterableDataset):
            yield from data
            return
        for position in range(len(data)):
            item = data[position]
            again = data[0] if position == 0 and isinstance(item, tuple | list) else item
            if again is not item and not np.array_equal(np.asarray(item[0]), np.asarray(again[0])):
                raise UserError("image 0 differs when it is read again; leave random transforms out of test images")
            yield item
    except UserError:
        raise
    except Exception as error:  # a user's own code may raise anything
        raise UserError(f"expected {_FORMS}, got {_kind(data)}, which raised {described(error)}") from error


def _pixels(raw: Any, channels: int | None) -> Tensor:
    """Convert images to (N, C, H, W), uint8 or float32 in [0, 1].

    NHWC, and (N, H, W) of one channel, are recognised by a known number of channels. Whole numbers from 0 to 255 of any
    dtype are used as uint8.
    """
    if isinstance(raw, list | tuple) and raw:
        raw = _joined("pixels", [_as_tensor("pixels", image, channels or 3)[None] for image in raw])
    pixels = _as_tensor("pixels", raw)
    shape = tuple(pixels.shape)
    if pixels.ndim == 3 and channels == 1:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and shape[1] != channels == shape[3]:
        pixels = pixels.permute(0, 3, 1, 2)
    fits = pixels.ndim == 4 and 0 not in pixels.shape[1:]
    if fits:
        fits = pixels.shape[1] == channels if channels else (shape[1] in (1, 3) or shape[3] not in (1, 3))
    if not fits:
        hint = "permute NHWC; repeat a grey channel where mean and std have more values"
        raise UserError(f"pixels: expected (N, {channels or 'C'}, H, W), got {shape}; {hint}")
    return _unit_or_bytes(pixels)


def _unit_or_bytes(pixels: Tensor) -> Tensor:
    """Convert pixels to uint8 from 0 to 255 or float32 in [0, 1], by their dtype and range."""
    if pixels.dtype == torch.uint8 or pixels.numel() == 0:
        return pixels.to(torch.uint8)
    expected = f"pixels: expected uint8 from 0 to 255 or floats in [0, 1], got {_dtype(pixels)}"
    if pixels.is_complex():
        raise UserError(expected)
    if not pixels.is_floating_point():
        pixels = pixels.long()
    low, high = float(pixels.min()), float(pixels.max())
    if pixels.is_floating_point() and low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return pixels.float().clamp(0, 1)
    whole = not pixels.is_floating_point() or bool((pixels == pixels.trunc()).all())
    if whole and low >= 0 and 1 < high <= 255:
        return pixels.to(torch.uint8)
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        hint = "replace NaN and infinite values"
    elif low < 0:
        hint = "undo the normalisation, for instance pixels * std + mean; the victim normalises"
    else:
        hint = "divide by the largest possible value, 255 for 8 bits"
    raise UserError(f"{expected} from {low:.4g} to {high:.4g}; {hint}")


def _labels(raw: Any, classes: int | None) -> Tensor:
    """Convert whole numbers of any dtype, a vector, a column or one-hot rows, to (N,) int64; ranges are not checked."""
    labels = _as_tensor("labels", raw)
    expected = "labels: expected (N,) class indices from 0" + ("" if classes is None else f" to {classes - 1}")
    if labels.is_complex() or (labels.is_floating_point() and not bool((labels == labels.trunc()).all())):
        raise UserError(f"{expected}, got {_dtype(labels)} that are not whole numbers; soft labels: take their argmax")
    labels = labels.long()
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    if labels.ndim == 2 and labels.shape[1] == classes:
        if not (bool(((labels == 0) | (labels == 1)).all()) and bool((labels.sum(1) == 1).all())):
            raise UserError(f"{expected} or one-hot rows, got rows without exactly one 1")
        return labels.argmax(1)
    if labels.ndim != 1:
        raise UserError(f"{expected}, got the shape {tuple(labels.shape)}")
    return labels


def _ids(raw: Any) -> list[str]:
    if isinstance(raw, np.ndarray) and raw.ndim == 1:
        raw = raw.tolist()
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise UserError(f"ids: expected a list of text, got {_kind(raw)}")
    for position, name in enumerate(raw):
        if not isinstance(name, str) or not name or not is_plain(name):
            got = f"'{shown(name)}'" if isinstance(name, str) else _kind(name)
            hint = "an id must name its image in every run, such as f'my_data/test/{number:05d}'"
            raise UserError(f"ids: expected text in UTF-8, got {got} at position {position}; {hint}")
    return [str(name) for name in raw]


def _as_tensor(what: str, raw: Any, channels: int = 3) -> Tensor:
    """Convert a tensor, an array, a Pillow image or nested lists of numbers to a tensor on the CPU."""
    if isinstance(raw, Image.Image):
        return pixels_of(raw, channels)
    try:
        if isinstance(raw, Tensor):
            return raw.detach().cpu()
        if isinstance(raw, list | tuple) and raw and all(isinstance(each, Tensor) for each in raw):
            return torch.stack([each.detach().cpu() for each in raw])
        array = np.array(raw)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except (TypeError, ValueError, RuntimeError) as error:
        hint = "; names of classes: give their indices" if what == "labels" else ""
        raise UserError(f"{what}: expected numbers, got {_kind(raw)}: {one_line(error)}{hint}") from error


def _joined(what: str, parts: list[Tensor]) -> Tensor:
    """Concatenate tensors (rows, ...)."""
    for part in parts:
        if (part.shape[1:], part.dtype) != (parts[0].shape[1:], parts[0].dtype):
            both = " and ".join(f"{tuple(each.shape[1:])} {_dtype(each)}" for each in (parts[0], part))
            raise UserError(f"{what}: expected one shape and dtype, got {both}")
    return torch.cat(parts)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _kind(value: object) -> str:
    """Return the type of a value for a message, with the value if it is a number."""
    number = f" {shown(f'{value!r:.40}')}" if isinstance(value, int | float) else ""
    return f"{type(value).__name__}{number}"

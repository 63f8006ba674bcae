"""Scales of features: their standard deviations over clean images, measured once and stored beside the card."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rfdlight._io import check_regular, replacing
from rfdlight.core.activations import InsertionPoint, called_again, never_called, received
from rfdlight.data.base import ImageData
from rfdlight.data.loaders import loader
from rfdlight.data.sources import ImageSource
from rfdlight.errors import UserError, one_line
from rfdlight.victims.answers import device_of

NUM_IMAGES = 512
"""Default number of training images."""


def scales_path(card_path: Path) -> Path:
    """Return the path of a card's scales: beside it, under the same stem."""
    return card_path.with_suffix(".scales.safetensors")


def calibration_images(data: ImageData, count: int = NUM_IMAGES) -> ImageSource:
    """Choose training images at random, the same at every call, independently of the order of storage."""
    train = data.images("train")
    if not 1 <= count <= len(train):
        raise UserError(f"num_images must be from 1 to {len(train)}, the training images of {data.name}, got {count}")
    # Not `select`: the shipped scales were measured on these images.
    in_order = sorted(range(len(train)), key=train.ids.__getitem__)
    return train.take(sorted(random.Random(0).sample(in_order, count), key=train.ids.__getitem__))


@torch.no_grad()
def measure_scales(
    victim: nn.Module, images: ImageSource, keys: Sequence[str], batch_size: int = 64
) -> tuple[dict[str, Tensor], int]:
    """Measure the standard deviation of each feature over images, averaged over its positions.

    Activations of four dimensions are (rows, channels, H, W) and have one scale per channel; those of three are (rows,
    tokens, features) and those of two (rows, features), with one per feature. At each position the standard deviation
    over the images is taken (divisor N), in one pass with sums in float64; then comes the mean over the positions.

    The victim is run in eval mode, without defenses. Keys are insertion points, such as "layer3:output", with paths
    inside the victim's `network`, or inside itself where it has none. Images that cannot be read are left out.
    Returned are (features,) float32 on the CPU by key, and the number of images.
    """
    points = _insertion_points(victim, keys)
    moments: dict[str, tuple[int, Tensor, Tensor]] = {}
    called: set[str] = set()
    rows = 0

    def receive(number: int, x: Any) -> None:
        key = points[number].key
        if key in called:
            raise called_again(points[number], "scale per feature")
        called.add(key)
        if not isinstance(x, Tensor) or x.ndim not in (2, 3, 4) or len(x) % rows:
            got = tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise UserError(f"the activation {key}: expected a tensor of 2 to 4 dimensions, {rows} rows, got {got}")
        exact = x.double()
        count, total, squares = moments.get(key, (0, 0, 0))
        moments[key] = count + len(x), total + exact.sum(0), squares + exact.square().sum(0)

    device, training, measured = device_of(victim), victim.training, 0
    victim.eval()
    try:
        with received(points, receive):
            for x, _, _ in loader(images, batch_size):
                called.clear()
                rows = len(x)
                victim(x.to(device))
                measured += len(x)
    finally:
        victim.train(training)
    for point in points:
        if point.key not in moments:
            raise never_called(point)
    return {key: _scale(*moments[key]) for key in moments}, measured


def _insertion_points(victim: nn.Module, keys: Sequence[str]) -> list[InsertionPoint]:
    network = getattr(victim, "network", victim)
    points = []
    for key in keys:
        path, _, side = key.rpartition(":")
        points.append(InsertionPoint(path, network.get_submodule(path), "input" if side == "input" else "output"))
    return points


def _scale(count: int, total: Tensor, squares: Tensor) -> Tensor:
    deviation = (squares / count - (total / count).square()).clamp_min(0).sqrt()
    positions = {1: (), 2: (0,), 3: (1, 2)}[deviation.ndim]
    averaged = deviation.mean(positions) if positions else deviation
    return averaged.float().cpu()


def save_scales(path: Path, scales: dict[str, Tensor], weights_sha256: str, data: str, num_images: int) -> None:
    """Write scales that were measured on `num_images` training images of `data`."""
    facts = {"weights_sha256": weights_sha256, "data": data, "split": "train", "num_images": str(num_images)}
    with replacing(path) as partial:
        save_file(scales, partial, metadata=facts)


def read_scales(path: Path, weights_sha256: str) -> dict[str, Tensor]:
    """Read the scales of a victim, an empty dictionary if there is no file; those of other weights are refused."""
    if not path.exists():
        return {}
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            measured_with = (file.metadata() or {}).get("weights_sha256")
            scales = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no dictionary
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {one_line(error)[:200]}") from error
    if measured_with != weights_sha256:
        raise UserError(
            f"{path} was measured with other weights than its card's: expected sha256 {weights_sha256[:16]}..., "
            f"got {str(measured_with)[:16]}...; remove it or measure anew: rfdlight scales"
        )
    if not all(scale.ndim == 1 and bool(((scale >= 0) & scale.isfinite()).all()) for scale in scales.values()):
        raise UserError(f"{path} does not hold standard deviations, at least 0 and one per feature")
    return scales

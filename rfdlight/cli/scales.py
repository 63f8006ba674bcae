"""`rfdlight scales`: how much the features of a victim vary, measured and stored with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.text import Text

from rfdlight._io import plain_console
from rfdlight.data.base import ImageData
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.insertion_points import default_points
from rfdlight.errors import UserError
from rfdlight.victims.card import load_victim
from rfdlight.victims.import_path import TIMM, is_import_path
from rfdlight.victims.resolve import card_path, check_data, other_data_warning
from rfdlight.victims.scales import (
    NUM_IMAGES,
    calibration_images,
    measure_scales,
    read_scales,
    save_scales,
    scales_path,
)


def scales(
    victim: str,
    data: ImageData,
    layers: str | list[str] | None = None,
    at: Literal["output", "input"] | None = None,
    num_images: int = NUM_IMAGES,
) -> None:
    """Measure the standard deviations of a victim's clean features and store them beside its card.

    They are what `--defense.scale feature` multiplies its noise by. Layers that the file holds already
    are measured again, on the same images.

    Args:
        victim: A shipped victim, or the path of a victim card.
        data: Whose training images are used.
        layers: Patterns over module paths; by default the network's default insertion points.
        at: Whether the output or the input of the layers is measured; by default as `feature_noise` does.
        num_images: How many training images, chosen at random, the same ones at every call.

    Raises:
        UserError: If the victim cannot be loaded, has no such layers, or does not fit the data.
    """
    if victim.startswith(TIMM) or is_import_path(victim):
        raise UserError(
            f"the scales of features are stored beside a victim card, which '{victim}' has not: expected a shipped "
            "name or a card; in Python, rfdlight.victims.scales.measure_scales measures them, and "
            "rfdlight.victims.Victim takes them as feature_scales"
        )
    path = card_path(victim)
    loaded, card = load_victim(path, scales=False)
    check_data(victim, card, data)
    if layers is None and not default_points(loaded.network):
        raise UserError(f"--layers is needed: {card.network} has no default insertion points")
    if card.preparation is not None:
        data.prepare(card.preparation)
    images = calibration_images(data, num_images)
    shape = data.image_shape
    if shape != card.image_shape:
        raise UserError(
            f"the victim '{victim}' is for images of the shape {card.image_shape}, the data {data.name} has {shape}"
        )
    console = plain_console()
    caution = other_data_warning(card, data)
    if caution:
        console.print(Text(f"caution: {caution}"), soft_wrap=True)
    target = scales_path(path)
    keys = {*_held(target, card.sha256)}
    keys |= {point.key for point in FeatureNoise(layers=layers, at=at).insertion_points(loaded)}
    measured, looked_at = measure_scales(loaded, images, sorted(keys))
    save_scales(target, measured, card.sha256, data.name, looked_at)
    for key in sorted(keys):
        scale = measured[key]
        low, high = float(scale.min()), float(scale.max())
        console.print(Text(f"{key}: {len(scale)} features, standard deviations {low:.3g} to {high:.3g}"))
    console.print(Text(f"{target}: measured on {looked_at} training images of {data.name}"), soft_wrap=True)


def _held(path: Path, weights_sha256: str) -> list[str]:
    """Return what a file of scales holds; one of other weights, or a damaged one, is to be replaced."""
    try:
        return list(read_scales(path, weights_sha256))
    except UserError:
        return []

"""`rfdlight scales`: measure the standard deviations of a victim's features and store them with its card."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from rich.text import Text

from rfdlight._io import plain_console
from rfdlight.data.base import ImageData
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.insertion_points import default_points
from rfdlight.errors import UserError, expect
from rfdlight.victims import scales as stored
from rfdlight.victims.card import load_victim
from rfdlight.victims.import_path import has_card
from rfdlight.victims.resolve import card_path, check_data, other_data_warning


def scales(
    victim: str,
    data: ImageData,
    layers: str | list[str] | None = None,
    at: Literal["output", "input"] | None = None,
    num_images: int = stored.NUM_IMAGES,
) -> None:
    """Measure the standard deviations of a victim's clean features and store them beside its card.

    `--defense.scale feature` multiplies its noise by them. Layers that the file already contains are measured again, on
    the same images.

    Args:
        victim: A shipped victim, or the path of a victim card.
        data: Data set, by default the victim card's; its training images are used.
        layers: Patterns over module paths; by default the network's default insertion points.
        at: Output or input of the layers; by default as `feature_noise` chooses.
        num_images: Number of training images, chosen at random, the same ones at every call.

    Raises:
        UserError: If the victim cannot be loaded, has no such layers, or does not fit the data.
    """
    hint = "in Python, rfdlight.victims.Victim takes feature_scales"
    expect(
        has_card(victim), "victim", "a shipped name or a victim card, beside which the scales are stored", victim, hint
    )
    path = card_path(victim)
    loaded, card = load_victim(path, scales=False)
    check_data(victim, card, data)
    given = layers is not None or default_points(loaded.network)
    expect(bool(given), "--layers", "layers", "none", f"{card.network} has no default insertion points")
    if card.preparation is not None:
        data.prepare(card.preparation)
    images = stored.calibration_images(data, num_images)
    fits = data.image_shape == card.image_shape
    expect(fits, "--data", f"images of the shape {card.image_shape}, as the victim", f"{data.name}, {data.image_shape}")
    console = plain_console()
    caution = other_data_warning(card, data)
    if caution:
        console.print(Text(f"warning: {caution}"), soft_wrap=True)
    target = stored.scales_path(path)
    keys = {point.key for point in FeatureNoise(layers=layers, at=at).insertion_points(loaded)}
    with suppress(UserError):  # a missing or damaged file, or one of other weights, is replaced
        keys |= set(stored.read_scales(target, card.sha256))
    measured, looked_at = stored.measure_scales(loaded, images, sorted(keys))
    stored.save_scales(target, measured, card.sha256, data.name, looked_at)
    for key in sorted(keys):
        scale = measured[key]
        low, high = float(scale.min()), float(scale.max())
        console.print(Text(f"{key}: {len(scale)} features, standard deviations {low:.3g} to {high:.3g}"))
    console.print(Text(f"{target}: measured on {looked_at} training images of {data.name}"), soft_wrap=True)

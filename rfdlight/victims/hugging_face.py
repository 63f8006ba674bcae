"""Image classifiers of Hugging Face's transformers, with the sizes and statistics of their own image processors."""

from __future__ import annotations

import math
from typing import Any, cast

from rfdlight._io import expanded
from rfdlight.core.extras import imported
from rfdlight.core.quiet import no_log
from rfdlight.data.preparation import CropMode, Interpolation, Preparation
from rfdlight.errors import UserError, legible, one_line
from rfdlight.victims.digest import weights_digest
from rfdlight.victims.loaded import LoadedVictim
from rfdlight.victims.schemes import place_of
from rfdlight.victims.victim import Victim

_INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""By their numbers in Pillow."""


def load_hugging_face(spec: str) -> LoadedVictim:
    """Load the victim `hf:NAME` from the hub or its cache, or `hf:FOLDER`.

    Raises a UserError if it is no image classifier with all its weights, or its processor does what rfdlight cannot.
    """
    transformers = imported("transformers", "hf", f"the victim '{spec}'")
    place = str(expanded(place_of(spec)))
    try:
        with no_log():
            classifiers, processors = transformers.AutoModelForImageClassification, transformers.AutoImageProcessor
            network, report = classifiers.from_pretrained(place, output_loading_info=True)
            processor = processors.from_pretrained(place).to_dict()
    except Exception as error:  # a file of theirs may be damaged in any way
        reason = one_line(error)[:300].rstrip(" .")
        raise UserError(legible(f"cannot load the image classifier '{spec}': {reason}")) from error
    lost = sorted(report["missing_keys"])
    if lost:
        raise UserError(
            legible(f"'{spec}' is no trained image classifier: expected all weights, got none for {', '.join(lost)}")
        )
    mean, std = _normalisation(processor, network.config, spec)
    victim = Victim(network.eval(), mean, std).eval()
    description = f"{spec}, weights digest {weights_digest(victim)[:12]}, clean accuracy unknown"
    return LoadedVictim(victim, description, preparation=_preparation(processor, spec))


def _normalisation(processor: dict[str, Any], config: Any, spec: str) -> tuple[list[float], list[float]]:
    """Return mean and std of each channel, in pixel units, from the settings of a processor."""
    if processor.get("rescale_offset"):
        raise UserError(f"'{spec}': expected a processor that rescales by a factor, got one with an offset")
    rescales = processor.get("do_rescale", True)
    scale = 255 * (processor.get("rescale_factor") or 1 / 255) if rescales else 255.0
    channels = getattr(config, "num_channels", 3)
    mean, std = ([0.0] * channels, [1.0] * channels)
    if processor.get("do_normalize", True):
        mean, std = (_per_channel(processor[f"image_{name}"], channels) for name in ("mean", "std"))
    return [value / scale for value in mean], [value / scale for value in std]


def _per_channel(values: Any, channels: int) -> list[float]:
    return [float(values)] * channels if isinstance(values, int | float) else [float(value) for value in values]


def _preparation(processor: dict[str, Any], spec: str) -> Preparation | None:
    """Return how a processor resizes and crops an image, None if it does neither."""
    if not processor.get("do_resize", True):
        return None
    number = int(processor.get("resample", 2))
    if number not in _INTERPOLATIONS:
        known = ", ".join(_INTERPOLATIONS.values())
        raise UserError(f"'{spec}': expected a processor with the interpolation {known}, got Pillow's number {number}")
    interpolation = cast(Interpolation, _INTERPOLATIONS[number])
    size = processor["size"]
    side = size.get("shortest_edge")
    resized = (side, side) if side is not None else (size["height"], size["width"])
    mode: CropMode = "squash" if side is None else "center"
    if processor.get("do_center_crop"):
        cut = processor["crop_size"]["height"], processor["crop_size"]["width"]
        return Preparation(cut, interpolation, _share(cut[0], resized[0]), mode)
    share = processor.get("crop_pct") if side is not None and side < 384 else None  # as ConvNeXT's crops smaller images
    return Preparation(resized, interpolation, share or 1.0, mode)


def _share(cut: int, resized: int) -> float:
    """Return the share of a side that a crop keeps, such that the side itself is computed back from it exactly."""
    share = cut / resized
    return share if int(cut / share) == resized else math.nextafter(share, 0)

"""Image classifiers of Hugging Face's transformers, with the sizes and statistics of their own image processors."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from rfdlight._io import expanded
from rfdlight.core.extras import imported
from rfdlight.core.quiet import quiet
from rfdlight.data.conversion import unit_range
from rfdlight.data.preparation import CropMode, Interpolation, Preparation
from rfdlight.errors import UserError, legible, one_line
from rfdlight.victims.digest import weights_digest
from rfdlight.victims.loaded import LoadedVictim
from rfdlight.victims.schemes import place_of
from rfdlight.victims.victim import Victim

_INTERPOLATIONS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
"""By their numbers in Pillow. Its nearest neighbour rounds in another way than that of `Preparation`."""

_CONVNEXT_SQUASHES = 384
"""Pixels from which on processors with `crop_pct` distort images instead of cropping them."""

_TOLERANCE = 2 / 255
"""Mean difference of two preparations of one image, in pixel units; backends round differently while they resize."""

_HINT = "load the network by an import path, as rfdlight.Victim(network, mean, std)"


class HuggingFaceVictim(Victim):
    """A classifier of transformers for pixels in [0, 1], which returns its logits alone."""

    def forward(self, x: Tensor) -> Tensor:
        answer = super().forward(x)
        return cast(Tensor, getattr(answer, "logits", answer))


def load_hugging_face(spec: str) -> LoadedVictim:
    """Load the victim `hf:NAME` from the hub or its cache, or `hf:FOLDER`.

    Mean and std are measured on what the image processor makes of a black and of a white image, and the preparation of
    images is compared with the processor's on random pixels.

    Raises a UserError if it is no image classifier with all its weights, or its processor does what rfdlight cannot.
    """
    transformers = imported("transformers", "hf", f"the victim '{spec}'")
    place = _place(spec)
    try:
        with quiet(), _bars_on_terminals(transformers):
            network, processor = _read(transformers, place, spec)
            preparation = _preparation(processor.to_dict(), spec)
            victim = _normalised(network.eval(), processor, preparation, spec).eval()
    except UserError:
        raise
    except Exception as error:  # a file of theirs may be damaged in any way
        nowhere = "" if os.path.isdir(place) else "no such folder here, and from the hub: "
        raise UserError(legible(f"cannot load the image classifier '{spec}': {nowhere}{_reason(error)}")) from error
    description = f"{spec}, weights digest {weights_digest(victim)[:12]}, clean accuracy unknown"
    return LoadedVictim(victim, description, preparation=preparation)


def _reason(error: Exception) -> str:
    return one_line(error)[:300].rstrip(" .")


def _place(spec: str) -> str:
    """Return the name or the folder of a victim; raise a UserError if it can be neither."""
    typed = place_of(spec)
    place = str(expanded(typed))
    is_name = typed.count("/") <= 1 and not typed.startswith((".", "/", "~"))
    # Of os.path, which raises nothing for names that are too long.
    if not typed or os.path.isfile(place) or not (os.path.isdir(place) or is_name):
        found = "a file" if os.path.isfile(place) else "no such folder" if typed else "nothing"
        raise UserError(legible(f"'{spec}': expected hf:NAME of the hub or hf:FOLDER with a config.json, got {found}"))
    return place


def _read(transformers: ModuleType, place: str, spec: str) -> tuple[Any, Any]:
    """Return a classifier and its image processor; code that lies beside their files is not run."""
    config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
    if type(config) not in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        got = f"a network of the type {config.model_type}"
        raise UserError(legible(f"'{spec}': expected an image classifier of transformers, got {got}"))
    network, report = transformers.AutoModelForImageClassification.from_pretrained(
        place, config=config, output_loading_info=True, trust_remote_code=False
    )
    lost = sorted(report["missing_keys"])
    if lost:
        raise UserError(
            legible(f"'{spec}' is no trained image classifier: expected all weights, got none for {', '.join(lost)}")
        )
    return network, transformers.AutoImageProcessor.from_pretrained(place, trust_remote_code=False)


@contextmanager
def _bars_on_terminals(transformers: ModuleType) -> Iterator[None]:
    """Drop the progress bars of transformers inside a with block, unless they go to a terminal."""
    log = transformers.utils.logging
    drop = log.is_progress_bar_enabled() and not sys.stderr.isatty()
    if drop:
        log.disable_progress_bar()
    try:
        yield
    finally:
        if drop:
            log.enable_progress_bar()


def _normalised(network: Any, processor: Any, preparation: Preparation | None, spec: str) -> Victim:
    """Return a network with the mean and std of its processor; raise a UserError if the processor does more."""
    channels = getattr(network.config, "num_channels", 3)
    height, width = (32, 32) if preparation is None else preparation.height_width
    # Of other proportions, and of random pixels: another size, or a crop elsewhere, changes every pixel.
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (channels, 3 * height // 2, 2 * width), dtype=torch.uint8, generator=generator)
    ours = unit_range(pixels if preparation is None else preparation(pixels))
    black, white, theirs = (
        _pixel_values(processor, each, spec)
        for each in (torch.zeros_like(pixels), torch.full_like(pixels, 255), pixels)
    )
    got = f"got {type(processor).__name__}, which returns"
    if theirs.shape != ours.shape:
        shapes = [" x ".join(map(str, each.shape)) for each in (ours, theirs)]
        raise UserError(f"'{spec}': expected a processor that returns pixels {shapes[0]}, {got} {shapes[1]}; {_HINT}")
    low, high = (each[:, ours.shape[1] // 2, ours.shape[2] // 2].double() for each in (black, white))
    rising = torch.stack([low, high]).isfinite().all(0) & (low < high)
    if not bool(rising.all()):
        wrong = int(rising.long().argmin())  # the first
        dark, bright = float(low[wrong]), float(high[wrong])
        values = f"{dark:.3g} for black and {bright:.3g} for white pixels in channel {wrong + 1} of {channels}"
        raise UserError(f"'{spec}': expected a processor whose image_std is above 0, {got} {values}; {_HINT}")
    std = 1 / (high - low)
    victim = HuggingFaceVictim(network, (-low * std).tolist(), std.tolist())
    difference = _difference(ours, theirs * victim.std + victim.mean)
    if not difference <= _TOLERANCE:  # NaN too
        expected = "expected a processor that resizes, crops and normalises, and nothing else"
        raise UserError(f"'{spec}': {expected}, {got} pixels that differ by {difference:.2g} on average; {_HINT}")
    return victim


def _pixel_values(processor: Any, pixels: Tensor, spec: str) -> Tensor:
    """Return what a processor makes of an image, uint8 (C, H, W)."""
    try:
        return cast(Tensor, processor(to_pil_image(pixels), return_tensors="pt")["pixel_values"][0].float())
    except Exception as error:  # a setting of its file may be anything
        expected = f"expected an image processor for {len(pixels)} channels with image_mean and image_std"
        got = f"got {type(processor).__name__}, which raises {type(error).__name__}: {_reason(error)}"
        raise UserError(legible(f"'{spec}': {expected}, {got}; compare its preprocessor_config.json")) from error


def _difference(one: Tensor, two: Tensor) -> float:
    """Return the mean difference of two images (C, H, W), the least over shifts by one pixel, by which crops differ.

    Images of fewer than 3 pixels a side have none inside their border, and are not shifted.
    """
    if min(one.shape[1:]) < 3:
        return float((one - two).abs().mean())
    inner = one[:, 1:-1, 1:-1]
    height, width = inner.shape[1:]
    shifts = product(range(3), repeat=2)
    return min(float((inner - two[:, y : y + height, x : x + width]).abs().mean()) for y, x in shifts)


def _preparation(settings: dict[str, Any], spec: str) -> Preparation | None:
    """Return how a processor resizes and crops an image, None if it does not resize."""
    if not settings.get("do_resize"):
        return None
    number = settings.get("resample", 2)
    if number not in tuple(_INTERPOLATIONS):
        known = ", ".join(f"{each} ({name})" for each, name in _INTERPOLATIONS.items())
        raise UserError(f"'{spec}': expected a processor with the resample {known}, got {number}; {_HINT}")
    size: dict[str, int] = settings.get("size") or {}
    mode: CropMode = "squash"
    match size:
        case {"shortest_edge": side} if len(size) == 1:
            resized = side, side
            share = settings.get("crop_pct")
            if share is None or side < _CONVNEXT_SQUASHES:
                mode = "center"
        case {"height": height, "width": width} if len(size) == 2:
            resized, share = (height, width), None
        case _:
            expected = "expected a processor with a size of shortest_edge, or of height and width"
            raise UserError(f"'{spec}': {expected}, got {size or None}; {_HINT}")
    if not settings.get("do_center_crop"):
        return Preparation(resized, _INTERPOLATIONS[number], share if share and mode == "center" else 1.0, mode)
    match settings.get("crop_size"):
        case {"height": int(height), "width": int(width)} if min(height, width) > 0:
            cut = height, width
        case other:
            expected = "expected a processor with a crop_size of height and width, both at least 1"
            raise UserError(legible(f"'{spec}': {expected}, got {other}; {_HINT}"))
    if cut[0] > resized[0] or cut[1] > resized[1]:
        raise UserError(
            f"'{spec}': expected a processor with a crop_size of at most its size {resized}, got {cut}; {_HINT}"
        )
    return Preparation(cut, _INTERPOLATIONS[number], _share(cut[0], resized[0]), mode)


def _share(cut: int, resized: int) -> float:
    """Return the share of a side that a crop keeps, such that the side itself is computed back from it exactly."""
    share = cut / resized
    return share if int(cut / share) == resized else math.nextafter(share, 0)

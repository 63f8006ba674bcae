"""Networks by their names in timm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import timm
from timm.data import resolve_data_config
from torch import nn

from rfdlight.data.preparation import CropMode, Interpolation, Preparation
from rfdlight.errors import UserError, one_line, unknown_name
from rfdlight.victims import cifar_resnet, cifar_vgg, cifar_vit  # noqa: F401  registers our networks with timm


@dataclass(frozen=True)
class PretrainedSettings:
    """Settings of timm's weights of a network: normalisation, image size and number of classes."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    preparation: Preparation
    num_classes: int


_OWN_OPTIONS = ("num_classes", "in_chans", "checkpoint_path", "cache_dir", "features_only")
"""Options that are set elsewhere, besides those that begin with "pretrained": sizes and weights."""


def strange_option(options: Mapping[str, Any]) -> str | None:
    """Return the first option of timm whose name or value is not allowed, None if all are."""
    for name, value in options.items():
        if name in _OWN_OPTIONS or name.startswith("pretrained") or not _is_plain(value):
            return name
    return None


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def create_network(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """Build a network that is registered with timm, with random weights or with timm's."""
    if not timm.is_model(name):
        raise unknown_name("network", name, timm.list_models())
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(f"timm cannot build '{name}': {one_line(error)}") from error
    except OSError as error:
        reason = one_line(error)[:120].rstrip(" .")
        raise UserError(
            f"cannot fetch the pretrained weights of '{name}': {reason}; offline, download them elsewhere and give "
            "their file as the checkpoint, in `rfdlight fit` with --model.pretrained false"
        ) from error


def pretrained_settings(name: str) -> PretrainedSettings | None:
    """Return the settings of timm's weights for a network, or None if there are none."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        return None
    settings = resolve_data_config(pretrained_cfg=config.to_dict())
    interpolation = settings["interpolation"] if settings["interpolation"] != "random" else "bilinear"
    preparation = Preparation(
        size=settings["input_size"][-1],
        interpolation=cast(Interpolation, interpolation),
        crop=settings["crop_pct"],
        crop_mode=cast(CropMode, settings["crop_mode"]),
    )
    return PretrainedSettings(tuple(settings["mean"]), tuple(settings["std"]), preparation, config.num_classes)

"""Registration of rfdlight's networks with timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_OF_TIMM = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments that timm passes to every network besides the user's options."""


def known_settings(pretrained: bool, settings: dict[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return the settings that a network takes.

    Raises:
        TypeError: If there is a setting that the network does not take.
        ValueError: If pretrained weights are requested, which timm does not have.
    """
    if pretrained:
        raise ValueError("timm has no weights for this network; rfdlight ships some as victims")
    unknown = sorted(settings.keys() - {*known, *_OF_TIMM})
    if unknown:
        raise TypeError(f"expected {', '.join(known)}, got {', '.join(unknown)}")
    return {key: settings[key] for key in known if key in settings}

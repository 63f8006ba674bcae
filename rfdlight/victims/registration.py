"""What our networks have in common as entries of timm's list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def known_settings(pretrained: bool, settings: dict[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return those of timm's settings that a network takes.

    Raises:
        ValueError: If pretrained weights are asked for, which timm has not.
    """
    if pretrained:
        raise ValueError("timm has no weights for this network; rfdlight ships some as victims")
    return {key: settings[key] for key in known if key in settings}

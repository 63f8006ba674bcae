"""Networks by their names in timm."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from rfdlight.errors import UserError, unknown_name
from rfdlight.victims import cifar_resnet  # noqa: F401  registers our networks with timm


def create_network(name: str, **options: Any) -> nn.Module:
    """Build a network that timm knows, ours among them, with random weights.

    Raises:
        UserError: If there is no such network, or timm refuses the tag or the options.
    """
    if not timm.is_model(name):
        raise unknown_name("network", name, timm.list_models())
    try:
        return timm.create_model(name, **options)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(f"timm cannot build '{name}': {' '.join(str(error).split())}") from error

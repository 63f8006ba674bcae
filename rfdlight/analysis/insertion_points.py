"""Insertion points of the commands: their selection, and a check that a forward pass calls all of them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from rfdlight.core.activations import InsertionPoint
from rfdlight.data.loaders import loader
from rfdlight.data.sources import ImageSource
from rfdlight.defenses.base import Defense
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.insertion_points import default_points
from rfdlight.errors import DefenseError, UserError
from rfdlight.victims.answers import device_of

_IMAGES = 16
"""Images of the forward pass that must call every insertion point."""


def chosen_points(
    victim: nn.Module, layers: str | list[str] | None, at: Literal["output", "input"] | None
) -> list[InsertionPoint]:
    """Return the insertion points of `--layers` and `--at`, by default those of the network, in the network's order."""
    network = getattr(victim, "network", victim)
    if layers is None and not default_points(network):
        top = ", ".join(name for name, _ in network.named_children()) or "none"
        raise UserError(
            f"--layers: expected layers, got none; a {type(network).__name__} has no default insertion points, its top "
            f"layers are {top}"
        )
    found = FeatureNoise(layers=layers, at=at).insertion_points(victim)
    # The order in which noise takes its sigmas; the defaults of a network may have another.
    return FeatureNoise(layers=[point.name for point in found], at=found[0].side).insertion_points(victim)


@torch.no_grad()
def check_acts(defense: Defense, victim: nn.Module, images: ImageSource) -> None:
    """Reject a defense with an insertion point that a forward pass never calls.

    A victim in eval mode that fails on the images is not checked.
    """
    device = device_of(victim)
    x, _, _ = next(iter(loader(images, _IMAGES)))
    x = x.to(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), defense.on(victim):
        try:
            victim(x)
        except DefenseError:
            raise
        except Exception:  # a user's own code may raise anything; the command reports it later
            return

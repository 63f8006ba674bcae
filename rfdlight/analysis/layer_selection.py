"""Insertion points selected by the options `--layers` and `--at`."""

from __future__ import annotations

from typing import Literal

from torch import nn

from rfdlight.core.activations import InsertionPoint
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.insertion_points import default_points
from rfdlight.errors import UserError


def chosen_places(
    victim: nn.Module, layers: str | list[str] | None, at: Literal["output", "input"] | None
) -> list[InsertionPoint]:
    """Return insertion points in the network's order.

    Args:
        victim: The network, or a Victim around it.
        layers: Patterns over module paths; by default the network's default insertion points.
        at: Output or input of the layers; by default as `feature_noise` chooses.

    Raises:
        UserError: If a pattern matches no layer, or there are no patterns and no default.
    """
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

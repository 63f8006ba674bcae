"""Which layers a measurement looks at."""

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
    """Return the places of the options `--layers` and `--at`, in the network's order.

    Args:
        victim: Whose layers are meant.
        layers: Patterns over module paths; by default the network's default insertion points.
        at: Whether the output or the input of the layers is meant; by default as `feature_noise` does.

    Raises:
        UserError: If a pattern matches nothing, or there are no patterns and no default.
    """
    network = getattr(victim, "network", victim)
    if layers is None and not default_points(network):
        top = ", ".join(name for name, _ in network.named_children())
        raise UserError(
            f"--layers is needed: a {type(network).__name__} has no default insertion points; "
            f"its top layers are {top or 'none'}"
        )
    found = FeatureNoise(layers=layers, at=at).insertion_points(victim)
    # By their names, so in the order in which noise takes its sigmas: a network may list its defaults in another.
    return FeatureNoise(layers=[place.name for place in found], at=found[0].side).insertion_points(victim)

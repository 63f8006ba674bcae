"""The randomized feature defense."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase

from torch import nn

from rfdlight.defenses.base import Place
from rfdlight.defenses.noise import Noise
from rfdlight.errors import UserError


class FeatureNoise(Noise):
    """Adds Gaussian noise to the outputs of hidden layers, at inference.

    Source: Nguyen, Lao, Pham, Wong, Doan, Understanding the Robustness of Randomized Feature Defense
    Against Query-Based Adversarial Attacks, ICLR 2024, algorithm 1. `sigma` is a standard deviation;
    the paper's nu is a variance.

    Args:
        sigma: Standard deviation, in the units of each layer's output, >= 0: one number, or one per
            layer in the network's order.
        layers: Patterns over module paths, where `*` stands for anything between two dots ("layer1",
            "layer*", "layer*.0", "blocks.*"); for a victim, paths inside its network. By default the network's
            `insertion_points`; those of resnet20 are the paper's.

    Raises:
        UserError: If a pattern matches nothing, or `layers` is not given and the network has no default.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Linear(2, 2))
        >>> with FeatureNoise(sigma=0.1, layers="0").on(network):
        ...     bool((network(torch.ones(1, 2)) == network(torch.ones(1, 2))).all())
        False
    """

    def __init__(self, sigma: float | list[float] = 0.1, layers: str | list[str] | None = None) -> None:
        super().__init__(sigma)
        self.layers = [layers] if isinstance(layers, str) else layers

    def places(self, model: nn.Module) -> list[Place]:
        """Return the layers that the patterns match, in the network's order."""
        network = getattr(model, "network", model)
        named = {name: module for name, module in network.named_modules() if name}
        patterns = self.layers if self.layers is not None else _paper_points(network)
        for pattern in patterns:
            if not any(_matches(name, pattern) for name in named):
                near = difflib.get_close_matches(pattern, named, n=8, cutoff=0.3) or list(named)[:8]
                raise UserError(f"no layer matches '{pattern}'; the network has {', '.join(near)}, ...")
        if not patterns:
            raise UserError("defense.layers must name at least one layer")
        matched = [name for name in named if any(_matches(name, pattern) for pattern in patterns)]
        return [Place(name, named[name], "output") for name in matched]


def _matches(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _paper_points(network: nn.Module) -> list[str]:
    """Return where the paper's code inserts noise, which a network of ours says of itself."""
    points = getattr(network, "insertion_points", None)
    if points is not None:
        return list(points)
    top = ", ".join(name for name, _ in network.named_children())
    raise UserError(
        f"defense.layers must be given for a {type(network).__name__}, which has no default; its top layers are {top}"
    )

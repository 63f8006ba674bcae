"""The randomized feature defense: noise in hidden layers."""

from __future__ import annotations

import difflib
import math
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from rfdlight.core.activations import InsertionPoint
from rfdlight.defenses.insertion_points import default_points
from rfdlight.defenses.noise import Noise, Schedule, drawn_like
from rfdlight.errors import UserError, unknown_name


class FeatureNoise(Noise):
    """Adds noise to the outputs or inputs of hidden layers.

    Source: Nguyen, Lao, Pham, Wong, Doan, Understanding the Robustness of Randomized Feature Defense Against
    Query-Based Adversarial Attacks, ICLR 2024, algorithm 1; its nu is a variance. Deviations: every distribution has
    the standard deviation sigma; the paper's code takes sigma as the scale of its Laplace noise, whose standard
    deviation is then sqrt(2) sigma. The scales of `scale="feature"` are measured by `rfdlight scales`; the paper's are
    not published.

    Args:
        sigma: Standard deviation, >= 0: one number, or one per layer in the network's order. In the
            units of each activation, or of its features' scales.
        layers: Patterns over module paths, where `*` stands for anything between two dots ("layer1",
            "layer*", "layer*.0", "blocks.*"); for a victim, paths inside its network. By default the
            insertion points of the paper's code, where the network has some: see `default_points`.
        distribution: "gaussian", "laplace" or "uniform", all of mean 0.
        at: Whether the "output" or the "input" of the layers gets the noise; by default the output, and
            the side of the paper's code at its insertion points.
        scale: "fixed" adds sigma times noise; "feature" multiplies it by the clean standard deviation of
            each feature (channel, or dimension of the embedding), which is stored with the victim's card.
        schedule: See Noise.

    Raises:
        UserError: If no layer matches, or the network lacks a default or a scale that is needed.
    """

    def __init__(
        self,
        sigma: float | list[float] = 0.1,
        layers: str | list[str] | None = None,
        distribution: Literal["gaussian", "laplace", "uniform"] = "gaussian",
        at: Literal["output", "input"] | None = None,
        scale: Literal["fixed", "feature"] = "fixed",
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(sigma, schedule)
        for name, value, known in (
            ("distribution", distribution, ["gaussian", "laplace", "uniform"]),
            ("at", at or "output", ["output", "input"]),
            ("scale", scale, ["fixed", "feature"]),
        ):
            if value not in known:
                raise unknown_name(f"defense.{name}", value, known)
        self.layers = [layers] if isinstance(layers, str) else layers
        self.distribution = distribution
        self.at = at
        self.scale = scale
        self._scales: list[Tensor] = []

    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        """Return the layers that the patterns match, in the network's order."""
        network = getattr(model, "network", model)
        if next(network.children(), None) is None:
            raise UserError(
                f"feature noise needs layers inside the victim, and a {type(network).__name__} has none; "
                "input_noise, logit_noise and aaa need none"
            )
        found = _default(network) if self.layers is None else _matching(network, self.layers)
        return [replace(point, side=self.at or point.side) for point in found]

    def attach(self, model: nn.Module) -> None:
        """Register the hooks, if each insertion point has a sigma and the scales that it needs."""
        scales = _stored(model, self.insertion_points(model)) if self.scale == "feature" else []
        super().attach(model)
        self._scales = scales

    def transform(self, x: Tensor, point: int) -> Tensor:
        """Add the noise, in units of the features' scales if these are chosen."""
        if self.scale == "fixed" or self._sigmas[point] == 0:
            return super().transform(x, point)
        if self._scales[point].device != x.device:
            self._scales[point] = self._scales[point].to(x.device)
        scale = self._scales[point].to(x.dtype)
        noise = super().transform(torch.zeros_like(x), point)
        return torch.addcmul(x, noise, scale.view(-1, 1, 1) if x.ndim == 4 else scale)

    def noise(self, x: Tensor) -> Tensor:
        """Return noise of the shape of `x`, of mean 0 and standard deviation 1, of the chosen distribution."""
        if self.distribution == "gaussian":
            return super().noise(x)
        # Half precision has too few uniform numbers: one in 256 would be the infinite end of the Laplace tail.
        dtype = torch.promote_types(x.dtype, torch.float32)
        centred = drawn_like(x, torch.rand, torch.rand_like, dtype).mul_(2).sub_(1)  # in [-1, 1)
        if self.distribution == "uniform":
            return centred.mul_(math.sqrt(3)).to(x.dtype)
        # The inverse of the distribution function, cut before the infinite end: at 1 - 2^-24, the last below 1.
        size = torch.log1p(-centred.abs().clamp_max_(1 - 2**-24))
        return size.mul_(centred.sign_()).mul_(-math.sqrt(0.5)).to(x.dtype)

    def describe(self, model: nn.Module) -> str:
        """Return the sigmas, the insertion points, the schedule, and options that are not at their defaults."""
        distribution = "" if self.distribution == "gaussian" else f", {self.distribution} noise"
        unit = "" if self.scale == "fixed" else ", in units of each feature's standard deviation"
        return super().describe(model) + distribution + unit


def _default(network: nn.Module) -> list[InsertionPoint]:
    found = default_points(network)
    if not found:
        top = ", ".join(name for name, _ in network.named_children())
        kind = type(network).__name__
        raise UserError(f"defense.layers must be given for a {kind}, which has no default; its top layers are {top}")
    return found


def _matching(network: nn.Module, patterns: list[str]) -> list[InsertionPoint]:
    if not patterns:
        raise UserError("defense.layers must name at least one layer")
    named = {name: module for name, module in network.named_modules() if name}
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in named):
            near = difflib.get_close_matches(pattern, named, n=8, cutoff=0.3) or list(named)[:8]
            several = f"; several layers are a list: [{pattern}]" if "," in pattern else ""
            raise UserError(f"no layer matches '{pattern}'{several}; the network has {', '.join(near)}, ...")
    matched = [name for name in named if any(_matches(name, pattern) for pattern in patterns)]
    return [InsertionPoint(name, named[name], "output") for name in matched]


def _matches(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _stored(model: nn.Module, points: list[InsertionPoint]) -> list[Tensor]:
    """Return the stored standard deviations of the features at each point, (features,)."""
    stored: dict[str, Tensor] = getattr(model, "feature_scales", {})
    missing = [point for point in points if point.key not in stored]
    if missing:
        raise UserError(
            f"defense.scale feature needs the stored scales of {', '.join(point.key for point in missing)}; "
            f"for a victim with a card, measure them: rfdlight scales VICTIM --data NAME "
            f"--layers '[{','.join(point.name for point in missing)}]' --at {missing[0].side}"
        )
    return [stored[point.key] for point in points]

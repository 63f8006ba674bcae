"""Which sets of places are worth noise, by what the linearised victim predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rfdlight.analysis.gradients import gradients
from rfdlight.analysis.theorem1 import margin_deviation, misled_probability, predicted_sigma
from rfdlight.core.activations import InsertionPoint, check_hooked
from rfdlight.data.loaders import loader
from rfdlight.data.sources import ImageSource
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.input_noise import InputNoise
from rfdlight.defenses.noise import Noise

_BEST = (2, 3)
"""How many of the best single places are also tried together."""


@dataclass(frozen=True)
class Candidate:
    """Noise at some places, each with an equal share of what it may cost.

    Attributes:
        layers: In the network's order; none is noise on the pixels.
        sigmas: One per layer, or one for the pixels: what costs the wanted drop.
        predicted: Mean over the images of the probability that this noise misleads the attacker.
    """

    layers: tuple[str, ...]
    sigmas: tuple[float, ...]
    predicted: float

    def __str__(self) -> str:
        return named(self.layers)


def named(layers: tuple[str, ...]) -> str:
    """Return a set of places as text; more than are ever combined by rank can only be all of them.

    Example:
        >>> named(("a", "b")), named(("a", "b", "c", "d"))
        ('a + b', 'all 4 from a to d')
    """
    if len(layers) > max(_BEST):
        return f"all {len(layers)} from {layers[0]} to {layers[-1]}"
    return " + ".join(layers) or "the pixels"


class LinearisedVictim:
    """A victim in the first order around some images.

    Args:
        victim: In eval mode, without defenses.
        images: N images.
        places: Layers in the network's order, each called once in a forward pass.
        step: Of the attacker whom the noise has to mislead, in pixel units; see `misled_probability`.
        device: Where the victim is.
    """

    def __init__(
        self, victim: nn.Module, images: ImageSource, places: list[InsertionPoint], step: float, device: torch.device
    ) -> None:
        batches = [(x.to(device), y.to(device)) for x, y, _ in loader(images, 64)]
        found = [gradients(victim, x, y, places) for x, y in batches]
        check_hooked(victim, batches[0][0], places)
        self.margins = torch.cat([part.margins for part in found])
        self.at_image = torch.cat([part.at_image for part in found])
        layers = torch.cat([part.at_layers for part in found])
        self.at = {place.name: layers[:, number] for number, place in enumerate(places)}
        self.step = step

    def norms(self, layers: tuple[str, ...]) -> Tensor:
        """Return the gradient norms at some layers, (N, layers), or for none of them at the pixels, (N, 1)."""
        return torch.stack([self.at[name] for name in layers] or [self.at_image], 1)

    def misled(self, layers: tuple[str, ...], sigmas: list[float]) -> float:
        """Return how often noise there misleads the attacker, mean over the images."""
        return float(misled_probability(self.norms(layers), self.at_image, sigmas, self.step).mean())

    def candidate(self, layers: tuple[str, ...], alone: list[float], drop: float) -> Candidate | None:
        """Return noise that costs the drop on the linearised victim, or None where no sigma does.

        Args:
            layers: Of the noise; none is noise on the pixels.
            alone: What the sigmas are in proportion to: what costs the drop at each of the layers alone.
            drop: Of the clean accuracy, in (0, 1).
        """
        factor = predicted_sigma(self.margins, margin_deviation(self.norms(layers), alone), drop)
        return None if factor is None else self.at_sigmas(layers, [factor * sigma for sigma in alone])

    def at_sigmas(self, layers: tuple[str, ...], sigmas: list[float]) -> Candidate:
        """Return noise of these sigmas, one per layer, with how often it is predicted to mislead."""
        return Candidate(layers, tuple(sigmas), self.misled(layers, sigmas))


def candidates(
    linear: LinearisedVictim, drop: float, settle: Callable[[Candidate], Candidate | None]
) -> tuple[list[Candidate], list[tuple[str, ...]]]:
    """Return what is worth trying: each layer, the best two, the best three, all of them, and the pixels.

    Args:
        linear: Predicts.
        drop: Of the clean accuracy, in (0, 1), that each of them costs.
        settle: Takes noise that costs the drop on the linearised victim, and returns what it takes of it in truth, or
            None where no sigma does.

    Returns:
        The candidates, the most misleading first, each set of places once; and the sets that have no sigma. A layer
        that has none is in no combination.
    """
    tried: dict[tuple[str, ...], Candidate | None] = {}

    def attempt(layers: tuple[str, ...], alone: list[float]) -> None:
        begin = linear.candidate(layers, alone, drop)
        tried[layers] = None if begin is None else settle(begin)

    attempt((), [1.0])
    for name in linear.at:
        attempt((name,), [1.0])
    singles = _ranked([tried[name,] for name in linear.at])
    alone = {single.layers[0]: single.sigmas[0] for single in singles}
    for count in (*_BEST, len(singles)):
        chosen = {single.layers[0] for single in singles[:count]}
        layers = tuple(name for name in linear.at if name in chosen)
        if layers not in tried:
            attempt(layers, [alone[name] for name in layers])
    return _ranked(list(tried.values())), [layers for layers, found in tried.items() if found is None]


def _ranked(found: list[Candidate | None]) -> list[Candidate]:
    return sorted((candidate for candidate in found if candidate is not None), key=lambda one: -one.predicted)


def noise_of(candidate: Candidate, side: Literal["output", "input"]) -> Noise:
    """Return a candidate as a defense.

    Args:
        candidate: What to build.
        side: Of all its layers.
    """
    sigmas = list(candidate.sigmas)
    sigma = sigmas[0] if len(sigmas) == 1 else sigmas
    return FeatureNoise(sigma, list(candidate.layers), at=side) if candidate.layers else InputNoise(sigmas[0])


def config_of(noise: Noise) -> dict[str, Any]:
    """Return such a defense as the command line takes it."""
    arguments: dict[str, Any] = {"sigma": noise.sigma}
    if isinstance(noise, FeatureNoise):
        arguments |= {"layers": noise.layers, "at": noise.at}
    return {"class_path": f"{type(noise).__module__}.{type(noise).__qualname__}", "init_args": arguments}

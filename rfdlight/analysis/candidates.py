"""Candidates for noise: sets of insertion points, ranked by the prediction of the linearised victim."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rfdlight.analysis.gradients import gradients
from rfdlight.analysis.theorem1 import margin_deviation, misled_probability, predicted_sigma
from rfdlight.core.activations import InsertionPoint
from rfdlight.data.loaders import loader
from rfdlight.data.sources import ImageSource
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.input_noise import InputNoise
from rfdlight.defenses.noise import Noise

_BEST = (2, 3)
"""Numbers of best single insertion points that are also combined."""


@dataclass(frozen=True)
class Candidate:
    """Noise at layers in the network's order, or at the pixels for no layers, each with an equal share of the cost.

    `predicted` is the mean over images of the probability that the noise misleads the attacker.
    """

    layers: tuple[str, ...]
    sigmas: tuple[float, ...]
    predicted: float

    def __str__(self) -> str:
        return layers_text(self.layers)


def layers_text(layers: tuple[str, ...]) -> str:
    """Return a set of layers as text; a set larger than any ranked combination contains all layers."""
    if len(layers) > max(_BEST):
        return f"all {len(layers)} from {layers[0]} to {layers[-1]}"
    return " + ".join(layers) or "the pixels"


class LinearisedVictim:
    """First-order approximation of a victim, in eval mode and without defenses, around N images.

    `step` is the standard deviation of the attacker's steps, in pixel units; see `misled_probability`.
    """

    def __init__(
        self, victim: nn.Module, images: ImageSource, points: list[InsertionPoint], step: float, device: torch.device
    ) -> None:
        self.ids: list[str] = []
        self.batches: list[tuple[Tensor, Tensor]] = []
        for x, y, ids in loader(images, 64):
            self.ids += ids
            self.batches.append((x.to(device), y.to(device)))
        found = gradients(victim, self.batches, points)
        self.margins, self.at_image, self.direction = found.margins, found.at_image, found.direction
        self.at = {point.name: found.at_layers[:, number] for number, point in enumerate(points)}
        self.step = step

    def norms(self, layers: tuple[str, ...]) -> Tensor:
        """Return the gradient norms at some layers, (N, layers), or at the pixels, (N, 1), for no layers."""
        return torch.stack([self.at[name] for name in layers] or [self.at_image], 1)

    def candidate(self, layers: tuple[str, ...], alone: list[float], drop: float) -> Candidate | None:
        """Return noise that costs the drop on the linearised victim, or None if no sigma does.

        Its sigmas are proportional to `alone`, the sigmas that cost the drop at each of the layers alone.
        """
        factor = predicted_sigma(self.margins, margin_deviation(self.norms(layers), alone), drop)
        return None if factor is None else self.at_sigmas(layers, [factor * sigma for sigma in alone])

    def at_sigmas(self, layers: tuple[str, ...], sigmas: list[float]) -> Candidate:
        """Return noise with these sigmas, one per layer, and its prediction."""
        return Candidate(layers, tuple(sigmas), float(self.misled(layers, sigmas).mean()))

    def misled(self, layers: tuple[str, ...], sigmas: list[float]) -> Tensor:
        """Return the probability that noise with these sigmas misleads the attacker, (N,)."""
        return misled_probability(self.norms(layers), self.at_image, sigmas, self.step)


def candidates(
    linear: LinearisedVictim, drop: float, settle: Callable[[Candidate], Candidate | None]
) -> tuple[list[Candidate], list[tuple[str, ...]]]:
    """Return each layer, the best two, the best three, all of them, and the pixels as candidates, the best first.

    `settle` maps noise that costs the drop on the linearised victim to noise that costs it on the victim, or to None if
    no sigma does. The second list holds the sets of layers without such a sigma, which are in no combination.
    """
    tried: dict[tuple[str, ...], Candidate | None] = {}

    def attempt(layers: tuple[str, ...], alone: list[float]) -> None:
        initial = linear.candidate(layers, alone, drop)
        tried[layers] = None if initial is None else settle(initial)

    for layers in ((), *((name,) for name in linear.at)):
        attempt(layers, [1.0])
    singles = [single for single in _ranked(tried.values()) if single.layers]
    alone = {single.layers[0]: single.sigmas[0] for single in singles}
    for count in (*_BEST, len(singles)):
        chosen = {single.layers[0] for single in singles[:count]}
        layers = tuple(name for name in linear.at if name in chosen)
        if layers not in tried:
            attempt(layers, [alone[name] for name in layers])
    return _ranked(tried.values()), [layers for layers, found in tried.items() if found is None]


def _ranked(found: Iterable[Candidate | None]) -> list[Candidate]:
    return sorted((candidate for candidate in found if candidate is not None), key=lambda one: -one.predicted)


def noise_of(candidate: Candidate, side: Literal["output", "input"]) -> Noise:
    """Return a candidate as a defense; `side` is that of all its layers."""
    sigmas = list(candidate.sigmas)
    if not candidate.layers:
        return InputNoise(sigmas[0])
    return FeatureNoise(sigmas[0] if len(sigmas) == 1 else sigmas, list(candidate.layers), at=side)


def config_of(noise: Noise) -> dict[str, Any]:
    """Return a noise as a mapping that the command line accepts as a defense."""
    arguments: dict[str, Any] = {"sigma": noise.sigma}
    if isinstance(noise, FeatureNoise):
        arguments |= {"layers": noise.layers, "at": noise.at}
    return {"class_path": f"{type(noise).__module__}.{type(noise).__qualname__}", "init_args": arguments}

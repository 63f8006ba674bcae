"""Measurements of noise at every insertion point: gradient norms, and how often the noise misleads an attacker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rfdlight.analysis.calibration import calibrate_roughly
from rfdlight.analysis.candidates import LinearisedVictim, noise_of
from rfdlight.analysis.clean_cost import CleanCostMeter
from rfdlight.analysis.gradients import gradients
from rfdlight.analysis.theorem1 import misled_frequency
from rfdlight.core.activations import InsertionPoint
from rfdlight.core.rng import image_seed
from rfdlight.core.statistics import mean_interval
from rfdlight.data.sources import ImageSource
from rfdlight.defenses.noise import Noise


@dataclass(frozen=True)
class Measurement:
    """Measurements at the image or at a layer, as float64 tensors (N,) in the order of the images.

    `norms` are of the margin's gradient, `ratios` those divided by the norm at the pixels, also after one gradient-sign
    step. `quantile` is the 1 % quantile of margin / norm over the correctly classified images with a nonzero gradient.
    `sigma` costs about the target drop, and misleads the attacker with the probabilities `predicted` and the
    frequencies `measured`, both empty if no sigma costs the drop.
    """

    name: str
    side: str
    margins: Tensor
    norms: Tensor
    ratios: Tensor
    ratios_after: Tensor
    quantile: float | None
    sigma: float | None
    drop: float | None
    predicted: Tensor
    measured: Tensor

    @property
    def magnitudes(self) -> Tensor:
        """The paper's magnitude of robustness, quantile times gradient norm; 0 without a quantile."""
        return (self.quantile or 0.0) * self.norms

    @property
    def measured_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean of `measured` over images, or None without a sigma."""
        return mean_interval(self.measured.numpy()) if len(self.measured) else None


@dataclass(frozen=True)
class Attacker:
    """The attacker of theorem 1: standard deviation of its steps, size of its gradient-sign step, and comparisons."""

    step: float
    eps: float
    draws: int


def measure_points(
    meter: CleanCostMeter,
    images: ImageSource,
    points: list[InsertionPoint],
    attacker: Attacker,
    drop: float,
    seed: int = 0,
) -> tuple[list[str], list[Measurement]]:
    """Return image ids, and measurements at the image and at every insertion point, each at about the same cost.

    The meter measures the cost on its own images. Deviations from Nguyen et al. (ICLR 2024): the paper does not state
    the size of the step of its figure 1, and takes the quantile over all images, also over misclassified ones, whose
    margin is negative.
    """
    linear = LinearisedVictim(meter.victim, images, points, attacker.step, meter.device)
    after = gradients(meter.victim, _stepped(linear, attacker.eps), points)
    norms_after = torch.cat([after.at_image[:, None], after.at_layers], 1)
    found = []
    side: Literal["input", "output"]
    for number, point in enumerate([None, *points]):
        name, side = ("the image", "input") if point is None else (point.name, point.side)
        layers = () if point is None else (name,)
        norms = linear.norms(layers)[:, 0]
        ratios, ratios_after = norms / linear.at_image, norms_after[:, number] / norms_after[:, 0]
        of_gradient = (linear.margins, norms, ratios, ratios_after, _quantile(linear.margins, norms))
        candidate = linear.candidate(layers, [1.0], drop)
        noise = noise_of(candidate, side) if candidate else None
        cost = calibrate_roughly(meter, noise, drop) if noise else None
        if noise is None or cost is None:
            empty = torch.empty(0, dtype=torch.float64)
            found.append(Measurement(name, side, *of_gradient, None, None, empty, empty))
        else:
            (sigma,) = noise.sigmas(1)
            measured = _measured(meter, noise, linear.batches, attacker, seed)
            predicted = linear.misled(layers, [sigma])
            found.append(Measurement(name, side, *of_gradient, sigma, cost.drop, predicted, measured))
    return linear.ids, found


def _stepped(linear: LinearisedVictim, eps: float) -> list[tuple[Tensor, Tensor]]:
    directions = linear.direction.split([len(y) for _, y in linear.batches])
    return [
        ((x - eps * direction.sign()).clamp(0, 1), y)
        for (x, y), direction in zip(linear.batches, directions, strict=True)
    ]


def _quantile(margins: Tensor, norms: Tensor) -> float | None:
    usable = (margins > 0) & (norms > 0)
    return float(np.quantile((margins / norms)[usable].numpy(), 0.01)) if usable.any() else None


def _measured(
    meter: CleanCostMeter, noise: Noise, batches: list[tuple[Tensor, Tensor]], attacker: Attacker, seed: int
) -> Tensor:
    found = []
    with torch.random.fork_rng():
        torch.manual_seed(image_seed(seed, "misled") % 2**32)
        for number, (x, y) in enumerate(batches):
            of_steps = image_seed(seed, f"steps {number}") % 2**32
            found.append(misled_frequency(meter.victim, noise, x, y, attacker.step, attacker.draws, of_steps))
    return torch.cat(found)


def ranked(measurements: list[Measurement]) -> list[Measurement]:
    """Return the insertion points that have a sigma, by their predicted probability of misleading, highest first."""
    with_sigma = [one for one in measurements if one.sigma is not None]
    return sorted(with_sigma, key=lambda one: -float(one.predicted.mean()))

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

QUANTILE = 0.01
THE_IMAGE = "the image"


@dataclass(frozen=True)
class Measurement:
    """Measurements at one insertion point. The tensors are float64, (N,), in the order of the images.

    Attributes:
        name: Path of the layer, or "the image".
        side: "input" or "output" of the layer.
        margins: Margins of the undefended logits, negative for misclassified images.
        norms: Norms of the margin's gradient at the insertion point.
        ratios: These norms divided by the gradient norm at the pixels.
        ratios_after: The ratios after one gradient-sign step of an attacker.
        quantile: 1 % quantile of margin / gradient norm over the correctly classified images with a nonzero gradient;
            None if there are none.
        sigma: Sigma that costs about the target drop, or None if no sigma does.
        drop: Measured drop of the clean accuracy; None without a sigma.
        predicted: Probability that noise of this sigma misleads the attacker; empty without a sigma.
        measured: Frequency with which it did; empty without a sigma.
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
    """The attacker of theorem 1.

    Attributes:
        step: Standard deviation of its random steps, in pixel units.
        eps: Size of the gradient-sign step before the ratios are measured again.
        draws: Comparisons per image and insertion point.
    """

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
    """Measure the image and every insertion point, each at about the same cost.

    Deviations from Nguyen et al. (ICLR 2024): the paper does not state the size of the step of its figure 1, and takes
    the quantile over all images, also over misclassified ones, whose margin is negative.

    Args:
        meter: Holds the victim; measures the cost of each noise on its own images.
        images: N images, at least 2.
        points: Insertion points.
        attacker: The attacker to mislead.
        drop: Target drop of the clean accuracy, in (0, 1).
        seed: Seed of all draws.

    Returns:
        The ids of the images, in the order of the tensors, and the measurements, the image first.

    Raises:
        UserError: If an insertion point is not called exactly once, or the victim fails on the images.
    """
    linear = LinearisedVictim(meter.victim, images, points, attacker.step, meter.device)
    after = gradients(meter.victim, _stepped(linear, attacker.eps), points)
    norms_after = torch.cat([after.at_image[:, None], after.at_layers], 1)
    found = []
    side: Literal["input", "output"]
    for number, point in enumerate([None, *points]):
        name, side = (THE_IMAGE, "input") if point is None else (point.name, point.side)
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
    return float(np.quantile((margins / norms)[usable].numpy(), QUANTILE)) if usable.any() else None


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

"""Where noise should go, by the paper's measurements of every insertion point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rfdlight.analysis.clean_cost import CleanCostMeter
from rfdlight.analysis.gradients import gradients
from rfdlight.analysis.rough_cost import bring_to
from rfdlight.analysis.theorem1 import misled_frequency, misled_probability, predicted_sigma
from rfdlight.core.activations import InsertionPoint, check_hooked
from rfdlight.core.intervals import mean_interval
from rfdlight.core.rng import image_seed
from rfdlight.data.loaders import loader
from rfdlight.data.sources import ImageSource
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.input_noise import InputNoise
from rfdlight.defenses.noise import Noise

QUANTILE = 0.01
THE_IMAGE = "the image"


@dataclass(frozen=True)
class Point:
    """What was measured of one place for noise. The tensors are float64, (N,), in the order of the images.

    Attributes:
        name: The layer's path, or "the image".
        side: Whether its input or its output is meant.
        margins: Of the undefended logits, negative where the answer is wrong.
        norms: Of the margin's gradient there.
        ratios: Those norms over the norm of the gradient at the pixels.
        ratios_after: The same after one step of an attacker.
        quantile: The 1 % quantile of margin over gradient norm, of the images that are classified rightly and whose
            margin depends on the place; None where there are none.
        sigma: What costs about the wanted drop, or None where none does.
        drop: What it costs, measured; None without a sigma.
        predicted: Probability that noise of that sigma misleads the attacker; empty without a sigma.
        measured: How often it did; empty without a sigma.
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
        """The paper's magnitude of robustness, the quantile times each image's gradient norm; 0 without a quantile."""
        return (self.quantile or 0.0) * self.norms

    @property
    def measured_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean of `measured` over images, or None without a sigma."""
        return mean_interval(self.measured.numpy()) if len(self.measured) else None


@dataclass(frozen=True)
class Attacker:
    """Whom the noise has to mislead.

    Attributes:
        step: Standard deviation of the steps that it compares, in pixel units.
        eps: Size of the one step against the image, in the direction of the gradient's signs.
        draws: Comparisons per image and layer.
    """

    step: float
    eps: float
    draws: int


def measure_points(
    meter: CleanCostMeter,
    images: ImageSource,
    places: list[InsertionPoint],
    attacker: Attacker,
    drop: float,
    seed: int = 0,
) -> tuple[list[str], list[Point]]:
    """Measure every place, and the image itself first.

    Deviations from Nguyen et al. (ICLR 2024): the paper does not say how long the step of its figure 1 is, and takes
    the quantile over all images, of which the wrong ones have no margin to lose.

    Args:
        meter: Of the victim; on its images the places are brought to the same cost.
        images: N images, at least 2.
        places: Layers.
        attacker: Whom to mislead.
        drop: Of the clean accuracy, in (0, 1), at which the places are compared.
        seed: Of all draws.

    Returns:
        The ids of the images, in the order of the points' tensors, and the points.

    Raises:
        UserError: If a place is not called once, or the victim fails on the images.
    """
    victim, device = meter.victim, meter.device
    ids: list[str] = []
    batches = []
    for x, y, names in loader(images, 64):
        ids += names
        batches.append((x.to(device), y.to(device)))
    clean, after = [], []
    for x, y in batches:
        clean.append(gradients(victim, x, y, places))
        stepped = (x - attacker.eps * clean[-1].direction.sign()).clamp(0, 1)
        after.append(gradients(victim, stepped, y, places))
    check_hooked(victim, batches[0][0], places)
    margins = torch.cat([found.margins for found in clean])
    image, image_after = (torch.cat([found.at_image for found in step]) for step in (clean, after))
    layers, layers_after = (torch.cat([found.at_layers for found in step]) for step in (clean, after))
    norms = torch.cat([image[:, None], layers], 1)
    ratios, ratios_after = (
        norms / image[:, None],
        torch.cat([image_after[:, None], layers_after], 1) / image_after[:, None],
    )
    named = [(THE_IMAGE, "input"), *((place.name, place.side) for place in places)]
    points = []
    for number, (name, side) in enumerate(named):
        at_place = norms[:, number]
        begin = predicted_sigma(margins, at_place, drop)
        sigma = cost = None
        predicted = measured = torch.empty(0, dtype=torch.float64)
        if begin is not None:
            noise: Noise = InputNoise(begin) if number == 0 else FeatureNoise(begin, name, at=places[number - 1].side)
            cost = bring_to(meter, noise, drop)
        if cost is not None:
            (sigma,) = noise.sigmas(1)
            predicted = misled_probability(at_place, image, sigma, attacker.step)
            measured = _measured(victim, noise, batches, attacker, seed)
        columns = (margins, at_place, ratios[:, number], ratios_after[:, number], _quantile(margins, at_place))
        points.append(Point(name, side, *columns, sigma, None if cost is None else cost.drop, predicted, measured))
    return ids, points


def _quantile(margins: Tensor, norms: Tensor) -> float | None:
    usable = (margins > 0) & (norms > 0)
    return float(np.quantile((margins / norms)[usable].numpy(), QUANTILE)) if usable.any() else None


def _measured(
    victim: nn.Module, noise: Noise, batches: list[tuple[Tensor, Tensor]], attacker: Attacker, seed: int
) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(image_seed(seed, "misled") % 2**32)
        return torch.cat(
            [
                misled_frequency(
                    victim, noise, x, y, attacker.step, attacker.draws, image_seed(seed, f"steps {number}") % 2**32
                )
                for number, (x, y) in enumerate(batches)
            ]
        )


def ranked(points: list[Point]) -> list[Point]:
    """Order the places that have a sigma by how often they are predicted to mislead, the most first."""
    with_sigma = [point for point in points if point.sigma is not None]
    return sorted(with_sigma, key=lambda point: -float(point.predicted.mean()))

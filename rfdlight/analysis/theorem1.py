"""Theorem 1 on the linearised victim: how often noise misleads an attacker, and the drop of clean accuracy.

Source: Nguyen, Lao, Pham, Wong, Doan, Understanding the Robustness of Randomized Feature Defense Against
Query-Based Adversarial Attacks, ICLR 2024, Theorem 1 and section 3.5.

In all functions the gradient norms at several layers are (N, layers), those at one layer or at the image (N,); sigma is
> 0, in the units of the activation, one per layer if there are several; `step` is in pixel units.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor, nn

from rfdlight.core.losses import margin
from rfdlight.defenses.noise import Noise

_WIDEST = 1e9
"""Factor around the median of margin / gradient norm that bounds the search for sigma."""

_GRID = 300
"""Sigmas in that range, 15 % apart; the drop is assumed to be monotone between two of them."""


def margin_deviation(at_layers: Tensor, sigma: float | list[float]) -> Tensor:
    """Return the standard deviation of the margin, (N,) float64, under noise at one or several layers.

    On a linear victim independent noises add their variances: `sum_l sigma_l^2 |g_l|^2`. The paper considers one layer;
    the sum over several is ours.
    """
    sigmas = torch.tensor(sigma, dtype=torch.float64).view(-1)
    return (at_layers.double().reshape(len(at_layers), -1) * sigmas).norm(dim=1)


def misled_probability(at_layers: Tensor, at_image: Tensor, sigma: float | list[float], step: float) -> Tensor:
    """Return the probability, (N,) in [0, 1/2], that noise flips the sign of the margin difference of two queries.

    The attacker compares the margins at x + u and at x, where u is normal with standard deviation `step`; each query
    has fresh noise. On a linear victim the true difference and the noise are independent and normal, so the observed
    sign differs from the true one with probability arctan(s) / pi, where s is the ratio of their standard deviations.

    Theorem 1 states a positive correlation with `arctan(-(2 nu |g_h|^2 / mu |g_x|^2)^-0.5)`; with nu = sigma^2 and
    mu = step^2 this probability is exactly 1/2 + that / pi.
    """
    noise = math.sqrt(2) * margin_deviation(at_layers, sigma)
    return torch.atan2(noise, step * at_image.double()) / math.pi


@torch.no_grad()
def misled_frequency(
    victim: nn.Module, defense: Noise, x: Tensor, y: Tensor, step: float, draws: int, seed: int = 0
) -> Tensor:
    """Return the measured frequency, (N,) float64, with which noise flips that sign; a difference of 0 counts half.

    The victim has no defenses; the points x + u are not clipped, as in the theorem. `seed` is that of u, the same for
    every defense; the noise comes from torch's global generator.
    """
    flipped = torch.zeros(len(x), dtype=torch.float64)
    clean = margin(victim(x.clone()), y)
    steps = torch.Generator(x.device).manual_seed(seed)
    for _ in range(draws):
        probe = x + step * torch.randn(x.shape, generator=steps, dtype=x.dtype, device=x.device)
        true = margin(victim(probe.clone()), y) - clean
        with defense.on(victim):
            observed = margin(victim(probe.clone()), y) - margin(victim(x.clone()), y)
        agreement = (true.sign() * observed.sign()).double().cpu()
        flipped += (1 - agreement) / 2
    return flipped / draws


def predicted_drop(margins: Tensor, at_layer: Tensor, sigma: float) -> float:
    """Return the drop of the clean accuracy on the linearised victim, equation (14) of the paper.

    `margins` are negative for misclassified images.
    """
    right = norm.cdf(_ratio(margins, at_layer) / sigma)
    return float(np.mean((margins > 0).numpy() - right))


def predicted_sigma(margins: Tensor, at_layer: Tensor, drop: float) -> float | None:
    """Return the least sigma that costs `drop`, in (0, 1), on the linearised victim, or None if no sigma does.

    The drop need not be monotone, since noise also corrects misclassified images.
    """
    ratio = np.abs(_ratio(margins, at_layer))
    finite = ratio[np.isfinite(ratio) & (ratio > 0)]
    if not len(finite):
        return None
    middle = math.log(np.median(finite))
    width = math.log(_WIDEST)

    def excess(log_sigma: float) -> float:
        return predicted_drop(margins, at_layer, math.exp(log_sigma)) - drop

    grid = np.linspace(middle - width, middle + width, _GRID)
    above = np.flatnonzero([excess(point) > 0 for point in grid])
    if not len(above) or above[0] == 0:
        return None
    return math.exp(brentq(excess, grid[above[0] - 1], grid[above[0]], xtol=1e-6))


def _ratio(margins: Tensor, at_layer: Tensor) -> np.ndarray:
    """Return margin / gradient norm; infinite for a zero gradient, and -infinity for 0 / 0, which stays wrong."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num((margins.double() / at_layer.double()).numpy(), nan=-np.inf, posinf=np.inf, neginf=-np.inf)

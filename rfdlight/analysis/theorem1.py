"""What the linearised victim predicts: how often noise misleads an attacker, and what it costs.

Source: Nguyen, Lao, Pham, Wong, Doan, Understanding the Robustness of Randomized Feature Defense Against
Query-Based Adversarial Attacks, ICLR 2024, Theorem 1 and section 3.5.
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
"""Factor around the median of margin over gradient norm in which a sigma is looked for."""

_GRID = 300
"""Sigmas there, 15 % apart, between two of which the drop is taken to be monotone."""


def margin_deviation(at_layers: Tensor, sigma: float | list[float]) -> Tensor:
    """Return the standard deviation of the margin under noise at one layer, or at several at once.

    The noises are independent, and on a victim that is linear between them and the margin each adds its own
    variance: the square of this is sum_l sigma_l^2 |g_l|^2. The paper has one layer in mind; the sum over
    several is ours.

    Args:
        at_layers: Norms of the gradient: (N,) at one layer, (N, layers) at several.
        sigma: > 0, of the noise, in the units of the activation; one per layer where there are several.

    Returns:
        (N,) float64.

    Example:
        >>> float(margin_deviation(torch.tensor([[1.0, 2.0]]), [3.0, 2.0]))
        5.0
    """
    sigmas = torch.tensor(sigma, dtype=torch.float64).view(-1)
    return (at_layers.double().reshape(len(at_layers), -1) * sigmas).norm(dim=1)


def misled_probability(at_layers: Tensor, at_image: Tensor, sigma: float | list[float], step: float) -> Tensor:
    """Return the probability that noise turns the sign of what an attacker reads off two answers.

    The attacker compares the margins at x + u and at x, where u is normal with standard deviation `step`; each of
    the two answers has fresh noise of standard deviation `sigma` in the layers. On a victim that is linear between
    the image and the margin, the difference that it looks for and the noise on it are independent and normal, and
    differ in sign with probability arctan(s) / pi, where s is the ratio of their standard deviations.

    Theorem 1 says "positively correlates with arctan(-(2 nu |g_h|^2 / mu |g_x|^2)^-0.5)"; with nu = sigma^2 and
    mu = step^2 this probability is exactly 1/2 + that / pi. Several layers: see `margin_deviation`.

    Args:
        at_layers: Norms of the gradient: (N,) at one layer, (N, layers) at several.
        at_image: (N,), norms of the gradient at the pixels.
        sigma: > 0, of the defense, in the units of the activation; one per layer where there are several.
        step: > 0, of the attacker, in pixel units.

    Returns:
        (N,) in [0, 1/2].

    Example:
        >>> one = torch.ones(1)
        >>> round(float(misled_probability(one, one, sigma=0.5**0.5, step=1.0)), 4)
        0.25
    """
    noise = math.sqrt(2) * margin_deviation(at_layers, sigma)
    return torch.atan2(noise, step * at_image.double()) / math.pi


@torch.no_grad()
def misled_frequency(
    victim: nn.Module, defense: Noise, x: Tensor, y: Tensor, step: float, draws: int, seed: int = 0
) -> Tensor:
    """Return how often noise does turn that sign, for each image.

    Args:
        victim: In eval mode, without defenses.
        defense: Of the sigma that is meant.
        x: (N, C, H, W) in [0, 1]; the points x + u are not clipped, as the theorem does not.
        y: (N,) int64.
        step: Of the attacker, in pixel units.
        draws: Of u and of the noise, >= 1.
        seed: Of u, so that every defense meets the same steps; the noise comes from torch's global generator.

    Returns:
        (N,) float64, shares of the draws. A difference of exactly 0 is half a turn.
    """
    turned = torch.zeros(len(x), dtype=torch.float64)
    clean = margin(victim(x.clone()), y)
    steps = torch.Generator(x.device).manual_seed(seed)
    for _ in range(draws):
        probe = x + step * torch.randn(x.shape, generator=steps, dtype=x.dtype, device=x.device)
        sought = margin(victim(probe.clone()), y) - clean
        with defense.on(victim):
            read = margin(victim(probe.clone()), y) - margin(victim(x.clone()), y)
        agreement = (sought.sign() * read.sign()).double().cpu()
        turned += (1 - agreement) / 2
    return turned / draws


def predicted_drop(margins: Tensor, at_layer: Tensor, sigma: float) -> float:
    """Return the drop of the clean accuracy on the linearised victim, equation (14) of the paper.

    Args:
        margins: (N,), negative where the undefended answer is wrong.
        at_layer: (N,), norms of the gradient at the layer.
        sigma: > 0.

    Example:
        >>> round(predicted_drop(torch.ones(3), torch.ones(3), sigma=1.0), 4)
        0.1587
    """
    right = norm.cdf(_ratio(margins, at_layer) / sigma)
    return float(np.mean((margins > 0).numpy() - right))


def predicted_sigma(margins: Tensor, at_layer: Tensor, drop: float) -> float | None:
    """Return the sigma that costs `drop` on the linearised victim, or None where none does.

    Where the drop is not monotone, since wrong answers become right too, it is the least of those that do.

    Args:
        margins: (N,), negative where the undefended answer is wrong.
        at_layer: (N,), norms of the gradient at the layer.
        drop: In (0, 1).
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
    """Return margin over gradient norm; a layer that the margin does not depend on takes noise without end.

    A margin of 0 that depends on nothing stays the wrong answer that it is.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num((margins.double() / at_layer.double()).numpy(), nan=-np.inf, posinf=np.inf, neginf=-np.inf)

"""The Evolutionary attack, l2, on one image."""

import math

import torch

from reference.nattack import enlarge


class BudgetSpentError(Exception):
    pass


def length(delta):
    return torch.linalg.vector_norm(delta.double()).item()


def active(uniforms, variance, count):
    """Return which places are drawn, without replacement, with probabilities in proportion to their variances."""
    keys = [math.log(u) / c for u, c in zip(uniforms, variance, strict=True)]
    chosen = sorted(range(len(keys)), key=lambda k: keys[k])[-count:]
    return [k in chosen for k in range(len(keys))]


def evolutionary(hit, x, grid, first_mu, window, budget, draws, start=None):  # noqa: C901 - the paper's steps
    """Return one entry per query (its point, its purpose, mu before it) and the nearest hit.

    `hit(point)` says whether a point is adversarial. `draws.noise(n)` gives uniform pixels, `draws.normal(n)` and
    `draws.uniform(n)` numbers for each value of the grid.
    """
    history = []
    mu, nearest = first_mu, x
    channels, height, width = x.shape

    def ask(point, purpose):
        if len(history) == budget:
            raise BudgetSpentError
        history.append({"point": point, "for": purpose, "mu": mu})
        return hit(point)

    try:
        tried = 0
        while True:
            far = draws.noise(tried) if start is None else start
            tried += 1
            nearest = far
            if ask(far, "start"):
                break
        low, high = 0.0, 1.0
        while start is None and high - low > 1e-3:
            middle = (low + high) / 2
            point = (x + (far - x) * middle).clamp(0, 1)
            if ask(point, "blend"):
                high, nearest = middle, point
            else:
                low = middle
        size = channels * grid * grid
        variance, path, taken = [1.0] * size, [0.0] * size, 0
        number = 0
        while True:
            chosen = active(draws.uniform(number), variance, max(size // 20, 1))
            normal = draws.normal(number)
            z = [math.sqrt(c) * n if k else 0.0 for c, n, k in zip(variance, normal, chosen, strict=True)]
            coarse = torch.tensor(z, dtype=torch.float64).view(channels, grid, grid)
            distance = length(nearest - x)
            step = mu * (x - nearest).double() + 0.01 * distance * enlarge(coarse, height, width)
            proposal = (nearest.double() + step).clamp(0, 1).float()
            number += 1
            if ask(proposal, "proposal") and length(proposal - x) < distance:
                nearest = proposal
                taken += 1
                path = [0.99 * p + math.sqrt(0.01 * 1.99) * value for p, value in zip(path, z, strict=True)]
                variance = [0.999 * c + 0.001 * p**2 for c, p in zip(variance, path, strict=True)]
            if number % window == 0:
                mu = min(mu * math.exp(taken / window - 0.2), 1.0)
                taken = 0
    except BudgetSpentError:
        return history, nearest

"""OPT on one image."""

import math

import torch

from reference.nearest_direction import BETA, BudgetSpentError, NearestDirection


def boundary(search, theta, gap):
    """Return g of a sample, or None where there is no boundary up to twice the radius."""
    radius = search.radius
    if search.wrong(theta, radius, "sample"):
        return search.shrunk(theta, radius, gap)
    while not search.wrong(theta, 1.01 * radius, "grow"):
        radius = 1.01 * radius
        if radius > 2 * search.radius:
            return None
    return search.bisect(theta, radius, 1.01 * radius, gap)


def opt(model, x, steps, draws, *, hit, starting_points, samples, start=None):
    """Return one entry per query (its point, purpose and the best radius before it) and the final direction.

    `draws(stream, number, shape)` returns normal numbers, `hit(label)` whether a label is what the attacker wants.
    """
    search = NearestDirection(model, x, steps, hit)
    alpha, beta, number = 0.2, BETA, 0
    try:
        search.begin(draws, starting_points, start)
        while True:
            total, nearest = torch.zeros_like(x), (math.inf, None)
            for _ in range(samples):
                u = search.unit(draws(1, number, x.shape))
                number += 1
                direction = search.unit(search.theta + torch.tensor(beta) * u)
                radius = boundary(search, direction, 0.01 * beta)
                if radius is not None:
                    total = total + torch.tensor((radius - search.radius) / beta) * u
                    if radius < nearest[0]:
                        nearest = radius, direction
            alpha = search.line_search(total, samples, alpha, 0.01 * beta)
            if nearest[0] < search.radius:
                search.radius, search.theta = nearest
            alpha, beta = search.restarted(alpha, beta)
    except BudgetSpentError:
        return search.history, search.theta

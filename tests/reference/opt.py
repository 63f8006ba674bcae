"""OPT on one image."""

import math

import torch

from reference.nearest_direction import BudgetSpentError, NearestDirection


def boundary(search, theta, gap):
    """Return g of a sample, or None where there is no boundary up to twice the radius."""
    radius = search.radius
    if search.wrong(theta, radius, "sample"):
        return search.shrunk(theta, radius, gap)
    grown = search.grown(theta, gap, 2 * radius)
    return None if math.isinf(grown) else grown


def opt(model, x, steps, draws, *, hit, starting_points, samples, start=None):
    """Return one entry per query (its point, purpose and the best radius before it) and the final direction.

    `draws(stream, number, shape)` returns normal numbers, `hit(label)` whether a label is what the attacker wants.
    """
    search = NearestDirection(model, x, steps, hit)
    alpha, beta, number = 0.2, search.beta, 0
    try:
        search.begin(draws, starting_points, start)
        while True:
            total, nearest = torch.zeros_like(x), (math.inf, None)
            for _ in range(samples):
                u = search.unit(draws(1, number, x.shape))
                number += 1
                direction = search.unit(search.theta + torch.tensor(beta) * u)
                radius = boundary(search, direction, search.gap * beta)
                if radius is not None:
                    total = total + torch.tensor((radius - search.radius) / beta) * u
                    if radius < nearest[0]:
                        nearest = radius, direction
            alpha = search.line_search(total, samples, alpha, search.gap * beta)
            if nearest[0] < search.radius:
                search.radius, search.theta = nearest
            alpha, beta = search.restarted(alpha, beta)
    except BudgetSpentError:
        return search.history, search.theta

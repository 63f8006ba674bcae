"""Sign-OPT on one image."""

import torch

from reference.nearest_direction import BudgetSpentError, NearestDirection


def signopt(model, x, steps, draws, *, hit, starting_points, samples, start=None, published=None):
    """Return one entry per query (its point, purpose and the best radius before it) and the final direction.

    `draws(stream, number, shape)` returns normal numbers, `hit(label)` whether a label is what the attacker wants.
    """
    search = NearestDirection(model, x, steps, hit, published)
    alpha, beta, number = 0.2, search.beta, 0
    try:
        search.begin(draws, starting_points, start)
        while True:
            total = torch.zeros_like(x)
            for _ in range(samples):
                u = search.unit(draws(1, number, x.shape))
                number += 1
                direction = search.unit(search.theta + torch.tensor(beta) * u)
                total = total + (-1 if search.wrong(direction, search.radius, "sample") else 1) * u
            alpha = search.line_search(total, samples, alpha, search.gap * beta)
            alpha, beta = search.restarted(alpha, beta)
    except BudgetSpentError:
        return search.history, search.theta

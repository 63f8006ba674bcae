"""OPT, l2 and linf, on one image."""

import math

import torch


class BudgetSpentError(Exception):
    pass


def opt(model, x, norm, steps, draws, *, hit, starting_points, samples, start=None):  # noqa: C901 - the paper's steps
    """Return one entry per query: its point, its purpose, and the radius of theta or of the last better step.

    `draws(stream, number, shape)` returns normal numbers, `hit(label)` whether a label is what the attacker wants.
    """
    history, best = [], {"radius": math.inf}

    def size(v):
        row = v.reshape(1, -1)
        return (row.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(row, dim=1)).item()

    def unit(v):
        return v / torch.tensor(size(v))

    def wrong(theta, radius, purpose):
        if len(history) == steps:
            raise BudgetSpentError
        point = (x + torch.tensor(radius) * theta).clamp(0, 1)
        history.append({"point": point, "purpose": purpose, "radius": best["radius"]})
        return hit(model(point).argmax().item())

    def bisect(theta, low, high, gap):
        while True:
            middle = (low + high) / 2
            if wrong(theta, middle, "bisect"):
                high = middle
            else:
                low = middle
            if high - low <= gap:
                return high

    def shrunk(theta, high, gap):
        for _ in range(100):
            if not wrong(theta, 0.99 * high, "shrink"):
                return bisect(theta, 0.99 * high, high, gap)
            high = 0.99 * high
        return bisect(theta, 0.0, high, gap)

    def boundary(theta, gap):
        """Return g of a sample, or None where there is no boundary up to 20."""
        radius = best["radius"]
        if wrong(theta, radius, "sample"):
            return shrunk(theta, radius, gap)
        while not wrong(theta, 1.01 * radius, "grow"):
            radius = 1.01 * radius
            if radius > 20:
                return None
        return bisect(theta, radius, 1.01 * radius, gap)

    theta = None
    alpha, beta, number, tried = 0.2, 1e-3, 0, 0
    try:
        while tried < starting_points or theta is None:
            raw = draws(0, tried, x.shape) if start is None else start - x
            reach = min(size(raw), best["radius"])
            if wrong(unit(raw), reach, "start"):
                radius = bisect(unit(raw), 0.0, reach, 1e-5)
                if radius < best["radius"]:
                    best["radius"], theta = radius, unit(raw)
            tried += 1
        while True:
            total, nearest = torch.zeros_like(x), (math.inf, None)
            for _ in range(samples):
                u = unit(draws(1, number, x.shape))
                number += 1
                direction = unit(theta + torch.tensor(beta) * u)
                radius = boundary(direction, beta / 500)
                if radius is not None:
                    total = total + torch.tensor((radius - best["radius"]) / beta) * u
                    if radius < nearest[0]:
                        nearest = radius, direction

            def stepped(a, theta=theta, total=total):
                return unit(theta - torch.tensor(a / samples) * total)

            def nearer(a, gap=beta / 500, stepped=stepped):
                high = best["radius"]
                return shrunk(stepped(a), high, gap) if wrong(stepped(a), high, "try") else math.inf

            found = None
            for _ in range(15):
                radius, tested = nearer(alpha), alpha
                alpha *= 2
                if radius >= best["radius"]:
                    break
                best["radius"], found = radius, stepped(tested)
            if found is None:
                for _ in range(15):
                    alpha *= 0.25
                    radius = nearer(alpha)
                    if radius < best["radius"]:
                        best["radius"], found = radius, stepped(alpha)
                        break
            theta = theta if found is None else found
            if nearest[0] < best["radius"]:
                best["radius"], theta = nearest
            if alpha < (1e-4 if norm == "l2" else 1e-6):
                alpha, beta = 1.0, 0.1 * beta
                beta = 1e-3 if beta < 1e-8 else beta
    except BudgetSpentError:
        return history, theta

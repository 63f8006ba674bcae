"""P-RGF on one image."""

import math

import torch

from reference.ascent import SpentError, into_ball, into_pixels
from reference.nes import loss_of


def weight_of(cosine, size, samples):
    """Return lambda*, by the three cases of the paper."""
    a = cosine**2
    if a <= 1 / (size + 2 * samples - 2):
        return 0.0
    if a >= (2 * samples - 1) / (size + 2 * samples - 2):
        return 1.0
    above = (1 - a) * (a * (size + 2 * samples - 2) - 1)
    return above / (2 * a * size * samples - a**2 * size * (size + 2 * samples - 2) - 1)


def prgf(model, prior, x, y, target, eps, norm, samples, norm_samples, sigma, step, loss, budget, normal):
    """Return one entry per query: the point, and the iterate after the answer.

    `prior(p)` gives the surrogate's gradient of the loss that the attacker lowers, `normal(k)` the k-th draw from
    N(0, I); k counts queries.
    """
    history = []
    iterate = x.clone()
    length = sigma * math.sqrt(x.numel())

    def query(point):
        if len(history) == budget:
            raise SpentError
        history.append({"point": point, "look": False, "iterate": iterate})
        return loss_of(model(point), y, target, loss).item()

    def slope(direction, here):
        return (here - query(into_pixels(iterate + length * direction))) / length

    def unit(vector):
        return vector / vector.norm() if vector.norm() > 0 else vector

    try:
        while True:
            v = -unit(prior(iterate))
            here = query(iterate)
            along = slope(v, here)
            squares = [slope(unit(normal(len(history))), here) ** 2 for _ in range(norm_samples)]
            size = math.sqrt(x.numel() * sum(squares) / norm_samples)
            weight = weight_of(max(-1.0, min(1.0, along / size)) if size > 0 else 0.0, x.numel(), samples)
            direction = along * v
            if weight < 1:
                direction = torch.zeros_like(x)
                for _ in range(samples):
                    w = unit(normal(len(history)))
                    across = unit(w - (w * v).sum() * v)
                    u = math.sqrt(weight) * v + math.sqrt(1 - weight) * across
                    direction = direction + slope(u, here) * u
            move = torch.sign(direction) if norm == "linf" else unit(direction)
            iterate = into_pixels(into_ball(x, iterate + step * move, eps, norm))
            history[-1]["iterate"] = iterate
    except SpentError:
        return history

"""NAttack on one image."""

import math

import torch

from reference.ascent import SpentError, into_ball
from reference.nes import loss_of


def enlarge(coarse, height, width):
    """Return a grid enlarged bilinearly, centres on centres, values beyond the outer centres repeated."""
    channels, side, _ = coarse.shape
    large = torch.zeros(channels, height, width)

    def between(index, size):
        place = min(max((index + 0.5) * side / size - 0.5, 0.0), side - 1.0)
        low = math.floor(place)
        return low, min(low + 1, side - 1), place - low

    for i in range(height):
        top, bottom, down = between(i, height)
        for j in range(width):
            left, right, across = between(j, width)
            upper = (1 - across) * coarse[:, top, left] + across * coarse[:, top, right]
            lower = (1 - across) * coarse[:, bottom, left] + across * coarse[:, bottom, right]
            large[:, i, j] = (1 - down) * upper + down * lower
    return large


def nattack(model, x, y, target, eps, norm, population, sigma, step, grid, loss, budget, normal):
    """Return one entry per query: the point, whether it is a look, and what would be submitted after the answer.

    `normal(k)` gives the k-th draw from N(0, I), of the grid's shape.
    """
    channels, height, width = x.shape
    mu = torch.zeros(channels, grid, grid, dtype=torch.float64)
    history = []

    def point(z):
        open_pixels = torch.atanh((2 * x.double() - 1) * 0.999999)
        inside = (1 + torch.tanh(open_pixels + enlarge(z, height, width))) / 2
        return into_ball(x.double(), inside, eps, norm).clamp(0, 1).float()

    def query(z):
        if len(history) == budget:
            raise SpentError
        history.append({"point": point(z), "look": False, "iterate": point(mu)})
        return loss_of(model(history[-1]["point"]), y, target, loss).item()

    number = 0
    try:
        while True:
            draws = [normal(number + k).double() for k in range(population)]
            number += population
            losses = torch.tensor([query(mu + sigma * u) for u in draws], dtype=torch.float64)
            standard = (losses - losses.mean()) / losses.std(correction=0)
            mu = mu - step / (population * sigma) * sum(f * u for f, u in zip(standard, draws, strict=True))
            history[-1]["iterate"] = point(mu)
    except SpentError:
        return history

"""SignFlip, linf, on one image."""

import math

import torch

BISECTIONS, WINDOW = 10, 10
LEAST, MOST = 0.99, 0.9999


class BudgetSpentError(Exception):
    pass


def single(values):
    """Round Python's floats to float32, as images are."""
    return torch.tensor(values, dtype=torch.float32).tolist()


def clip(values, low, high):
    return [min(max(value, low), high) for value in values]


def enlarge(grid, h, w, height, width):
    """Return one channel's grid at the size of the image, bilinearly, corners not aligned."""
    if (h, w) == (height, width):
        return grid

    def sources(size, small):
        for i in range(size):
            place = max((i + 0.5) * small / size - 0.5, 0.0)
            first = math.floor(place)
            yield first, min(first + 1, small - 1), place - first

    values = []
    for top, bottom, down in sources(height, h):
        for left, right, across in sources(width, w):
            upper = (1 - across) * grid[top * w + left] + across * grid[top * w + right]
            lower = (1 - across) * grid[bottom * w + left] + across * grid[bottom * w + right]
            values.append((1 - down) * upper + down * lower)
    return values


def signflip(model, x, hit, resize, budget, draws, start=None):  # noqa: C901 - the steps in the order of the paper
    """Return one entry per query: its kind, the point, and what was known before it.

    `hit` says of a label whether it is what the attacker wants; `start` is where a targeted attack starts.
    """
    channels, height, width = x.shape
    h, w = max(height // resize, 1), max(width // resize, 1)
    clean = x.flatten().tolist()
    history = []
    delta, alpha, keep = None, single([0.004])[0], single([0.999] * (channels * h * w))

    def point_of(perturbation):
        return clip(single([a + b for a, b in zip(clean, perturbation, strict=True)]), 0.0, 1.0)

    def adversarial(kind, perturbation):
        if len(history) == budget:
            raise BudgetSpentError
        point = torch.tensor(point_of(perturbation)).view(x.shape)
        history.append({"kind": kind, "point": point, "delta": delta, "alpha": alpha, "keep": keep})
        return hit(model(point).argmax().item())

    def on_grid(signs):
        size = h * w
        maps = [enlarge(signs[c * size : (c + 1) * size], h, w, height, width) for c in range(channels)]
        return [value for channel in maps for value in channel]

    def iterate(number, projected, flipped):
        nonlocal delta, keep
        radius = max(single([max(map(abs, delta)) - alpha])[0], 0.0)
        noise = single([alpha * value for value in on_grid(draws.noise(number, channels * h * w))])
        candidate = clip(single([a + b for a, b in zip(delta, noise, strict=True)]), -radius, radius)
        if adversarial("project", candidate):
            delta, projected = candidate, projected + 1
        signs = [1 if u < k else -1 for u, k in zip(draws.flips(number, len(keep)), keep, strict=True)]
        candidate = [a if up >= 0 else -a for a, up in zip(delta, on_grid(signs), strict=True)]
        if adversarial("flip", candidate):
            delta, flipped = candidate, flipped + 1
            step = single([1e-4])[0]
            keep = clip(single([k - step * s for k, s in zip(keep, signs, strict=True)]), *single([LEAST, MOST]))
        return projected, flipped

    try:
        redraws = 0
        while True:
            source = draws.start(redraws, len(clean)) if start is None else start.flatten().tolist()
            candidate = single([a - b for a, b in zip(single(source), clean, strict=True)])
            if adversarial("start", candidate):
                break
            redraws += 1
        delta, low = candidate, 0.0
        for _ in range(BISECTIONS):
            middle = single([(low + max(map(abs, delta))) / 2])[0]
            candidate = clip(delta, -middle, middle)
            if adversarial("bisect", candidate):
                delta = candidate
            else:
                low = middle
        delta = single([a - b for a, b in zip(point_of(delta), clean, strict=True)])
        number = 0
        while True:
            projected = flipped = 0
            for _ in range(WINDOW):
                projected, flipped = iterate(number, projected, flipped)
                number += 1
            if projected / WINDOW > 0.7:
                alpha = single([alpha * single([1.5])[0]])[0]
            elif projected / WINDOW < 0.3:
                alpha = single([alpha * single([1 / 1.5])[0]])[0]
            shift = single([-0.001 if flipped / WINDOW > 0.7 else 0.001 if flipped / WINDOW < 0.3 else 0.0])[0]
            keep = clip(single([k + shift for k in keep]), *single([LEAST, MOST]))
    except BudgetSpentError:
        pass
    return history

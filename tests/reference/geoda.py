"""GeoDA, l2 and linf, on one image."""

import math

import torch


class BudgetSpentError(Exception):
    pass


def split(budget):
    """Return the probes of each iteration, adjusting their number one by one; it never turns back."""
    growth = 0.6 ** (-2 / 3)

    def share(count):
        return max(budget - 25 * count, 0) / sum(growth**i for i in range(count))

    def miss(count):
        return max(50 - share(count), share(count) - 80, 0)

    count = max(1, round(budget / 500))
    step = 1 if share(count) > 80 else -1
    while miss(count) > 0 and count + step >= 1 and miss(count + step) < miss(count):
        count += step
    return [max(1, round(share(count) * growth**i)) for i in range(count)]


def cosines(size, mode):
    """Return one row of the orthonormal cosine transform, (size,)."""
    scale = math.sqrt((1 if mode == 0 else 2) / size)
    return torch.tensor([scale * math.cos(math.pi * mode * (2 * i + 1) / (2 * size)) for i in range(size)])


def wave(weights, height, width):
    """Return the image with these lowest cosine coefficients, (C, H, W), summed across, then down."""
    image = torch.zeros(len(weights), height, width)
    for channel, square in enumerate(weights):
        for u, line in enumerate(square):
            row = torch.zeros(width)
            for v, weight in enumerate(line):
                row = row + weight * cosines(width, v)
            image[channel] = image[channel] + row[None] * cosines(height, u)[:, None]
    return image


def geoda(model, x, y, norm, budget, steps, draws, *, sub_dim=10, alpha=2e-4, kappa=1.0):  # noqa: C901 - the paper's steps
    """Return one entry for each of the first `steps` queries: the point, whether it was wrong, and its purpose.

    `draws(stream, number, shape)` returns normal numbers.
    """
    channels, height, width = x.shape
    modes = (channels, min(sub_dim, height), min(sub_dim, width))
    history = []

    def wrong(point, purpose):
        if len(history) == steps:
            raise BudgetSpentError
        point = point.clamp(0, 1)
        history.append({"point": point, "purpose": purpose})
        history[-1]["wrong"] = model(point).argmax().item() != y
        return history[-1]["wrong"]

    def between(end, share):
        return x + torch.tensor(share) * (end - x)

    def bisect(end):
        length = math.sqrt(sum((end - x).flatten().double().square().tolist()))
        low, high = 0.0, 1.0
        while True:
            middle = (low + high) / 2
            if wrong(between(end, middle), "bisect"):
                high = middle
            else:
                low = middle
            if (high - low) * length <= 1e-4:
                return between(end, high)

    def walk(normal):
        scale = math.sqrt(normal.numel()) if norm == "linf" else torch.linalg.vector_norm(normal.view(1, -1), dim=1)
        direction = (normal.sign() if norm == "linf" else normal) / scale
        for j in range(1, 101):
            point = (x + torch.tensor(j * kappa) * direction).clamp(0, 1)
            if wrong(point, "walk"):
                return bisect(point)
        return None

    try:
        j = 1
        while True:
            start = (x + torch.tensor(0.02 * j) * draws(0, j, x.shape)).clamp(0, 1)
            if wrong(start, "start"):
                break
            j += 1
        edge = bisect(start)
        normal = torch.zeros(modes)
        number = iteration = 0
        shares = split(budget)
        while True:
            count = shares[iteration % len(shares)]
            total = torch.zeros(modes)
            for _ in range(count):
                weights = draws(1, number, modes)
                number += 1
                z = -1 if wrong(edge + torch.tensor(alpha) * wave(weights, height, width), "probe") else 1
                total = total - z * weights
            normal = normal + total / count
            reached = walk(wave(normal, height, width))
            edge = edge if reached is None else reached
            iteration += 1
    except BudgetSpentError:
        return history

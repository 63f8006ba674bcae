"""SimBA on one image."""

import math

import torch


def single(values):
    """Round to float32."""
    return torch.tensor(values, dtype=torch.float64).float().tolist()


def probability(logits, k):
    values = [v.item() for v in logits]
    top = max(values)
    return math.exp(values[k] - top) / sum(math.exp(v - top) for v in values)


def blocks(height, width, basis):
    """Return the blocks of coordinates from low to high frequencies, each inside the next."""
    if basis == "pixel":
        return [(height, width)]
    longer = max(height, width)
    side, stride = max(round(longer * 28 / 224), 1), max(round(longer * 7 / 224), 1)
    found = [(min(side, height), min(side, width))]
    while found[-1] != (height, width):
        side += stride
        found.append((min(side, height), min(side, width)))
    return found


def coordinates(shape, basis, order):
    """Yield channel, row and column for ever; `order(number, size)` is the random order of a ring."""
    channels, height, width = shape
    rings = blocks(height, width, basis)
    number = 0
    while True:
        inner = (0, 0)
        number += 1
        for outer in rings:
            ring = [(i, j) for i in range(inner[0], outer[0]) for j in range(outer[1])]
            ring += [(i, j) for i in range(inner[0]) for j in range(inner[1], outer[1])]
            places = [(c, i, j) for i, j in ring for c in range(channels)]
            yield from (places[k] for k in order(number, len(places)))
            inner = outer
            number += 1


def vector(shape, basis, place):
    """Return a basis vector, flat."""
    channels, height, width = shape
    c, i, j = place

    def wave(k, r, size):
        if basis == "pixel":
            return float(k == r)
        return math.sqrt((1 if k == 0 else 2) / size) * math.cos(math.pi * (2 * r + 1) * k / (2 * size))

    return [
        wave(i, r, height) * wave(j, s, width) if channel == c else 0.0
        for channel in range(channels)
        for r in range(height)
        for s in range(width)
    ]


def clipped(clean, delta):
    return [min(max(p, 0.0), 1.0) for p in single([a + b for a, b in zip(clean, delta, strict=True)])]


def queries(model, x, y, target, eps, norm, basis, step, order):
    """Yield one entry per query, for ever: the point, what is lowered as kept after it, and the coordinate."""
    shape, clean = x.shape, x.flatten().tolist()
    bound = single([eps])[0]
    length = min(step, eps) if basis == "pixel" and norm == "linf" else step
    length = single([length])[0]

    def lowered(point):
        logits = model(torch.tensor(point).view(shape))
        return probability(logits, y) if target is None else -probability(logits, target)

    def moved(delta, direction, sign):
        new = single([a + sign * length * b for a, b in zip(delta, direction, strict=True)])
        if norm == "linf":
            return [min(max(v, -bound), bound) for v in new]
        size = math.sqrt(sum(v * v for v in new))
        return single([v * min(eps / size, 1.0) if size else v for v in new])

    def idle(delta, place, sign):
        """Say whether clipping leaves a pixel as it is."""
        if basis == "dct":
            return False
        k = (place[0] * shape[1] + place[1]) * shape[2] + place[2]
        value = single([delta[k] + sign * length])[0]
        value = min(max(value, -bound), bound) if norm == "linf" else value
        return clipped([clean[k]], [value]) == clipped([clean[k]], [delta[k]])

    kept = [0.0] * len(clean)
    best = lowered(clipped(clean, kept))
    yield {"point": torch.tensor(clipped(clean, kept)).view(shape), "loss": best, "place": None}
    for place in coordinates(shape, basis, order):
        direction = vector(shape, basis, place)
        signs = [sign for sign in (-1, 1) if not idle(kept, place, sign)]
        for sign in signs:
            trial = moved(kept, direction, sign)
            value = lowered(clipped(clean, trial))
            better = value < best
            if better:
                kept, best = trial, value
            yield {"point": torch.tensor(clipped(clean, trial)).view(shape), "loss": best, "place": place}
            if better:
                break


def simba(model, x, y, target, eps, norm, basis, step, budget, order):
    """Return one entry per query."""
    asked = queries(model, x, y, target, eps, norm, basis, step, order)
    return [next(asked) for _ in range(budget)]

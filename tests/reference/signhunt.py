"""SignHunter on one image."""

import math

import torch


def single(values):
    """Round to float32."""
    return torch.tensor(values, dtype=torch.float64).float().tolist()


def margin(logits, y):
    rest = [logits[k].item() for k in range(len(logits)) if k != y]
    return single([logits[y].item() - max(rest)])[0]


def places(shape, order):
    """Return the position in (C, H, W) order of each value in the order of the chunks."""
    channels, height, width = shape
    if order == "chw":
        return list(range(channels * height * width))
    return [(c * height + i) * width + j for i in range(height) for j in range(width) for c in range(channels)]


def in_ball(clean, point, eps, norm):
    delta = single([p - x for p, x in zip(point, clean, strict=True)])
    if norm == "linf":
        bound = single([eps])[0]
        delta = [min(max(v, -bound), bound) for v in delta]
    else:
        length = math.sqrt(sum(v * v for v in delta))
        delta = single([v * min(eps / length, 1.0) if length else v for v in delta])
    return single([x + v for x, v in zip(clean, delta, strict=True)])


def queries(model, x, y, eps, norm, order, base_query, paper):
    """Yield what is asked and the point, for ever."""
    shape, clean = x.shape, x.flatten().tolist()
    d = len(clean)
    size = single([eps if norm == "linf" else eps / math.sqrt(d)])[0]
    where = places(shape, order)
    levels = math.ceil(math.log2(d))

    def image(point):
        return torch.tensor(point).view(shape)

    def probe(v):
        point = single([a + size * s for a, s in zip(anchor, v, strict=True)])
        return point if paper else [min(max(p, 0.0), 1.0) for p in in_ball(clean, point, eps, norm)]

    anchor = clean
    while True:
        v = [1] * d
        best, base = None, 0.0
        chunks = [None]
        for h in range(levels + 1):
            length = math.ceil(d / 2**h)
            chunks += [range(start, min(start + length, d)) for start in range(0, d, length)]
        for chunk in chunks:
            trial = list(v)
            for i in chunk or ():
                trial[where[i]] = -trial[where[i]]
            if base_query:
                yield "base", image(anchor)
                base = -margin(model(image(anchor)), y)
            yield "probe", image(probe(trial))
            gain = -margin(model(image(probe(trial))), y) - base
            if best is None or gain >= best:
                v, best = trial, gain
            iterate = in_ball(clean, probe(v), eps, norm) if paper else probe(v)
            if paper and chunk is not None:
                yield "look", image(iterate)
        anchor = iterate


def signhunt(model, x, y, eps, norm, order, base_query, paper, budget):
    """Return one entry per query: its kind and the point."""
    asked = queries(model, x, y, eps, norm, order, base_query, paper)
    return [next(asked) for _ in range(budget)]

"""Square, linf, on one image."""

import math

import torch

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def side(t, n, p, height):
    tau = math.floor(t / n * 10000)
    for after in HALVED_AFTER:
        if tau > after:
            p = p / 2
    return min(max(round(math.sqrt(p * height * height)), 1), height - 1)


def point_of(x, offset_signs, eps):
    """Return clip(x + eps s); a sum of two float32 numbers in double precision rounds as float32 would."""
    eps = torch.tensor(eps).item()
    values = x.tolist()
    for c in range(len(values)):
        for i in range(len(values[c])):
            for j in range(len(values[c][i])):
                values[c][i][j] = min(max(values[c][i][j] + eps * offset_signs[c][i][j], 0.0), 1.0)
    return torch.tensor(values)


def margin(logits, y):
    rest = [logits[k].item() for k in range(len(logits)) if k != y]
    return torch.tensor(logits[y].item() - max(rest)).item()


def painted(kept, top, left, s, colours):
    """Return the signs with one window in one colour per channel."""
    new = [[list(row) for row in channel] for channel in kept]
    for c in range(len(new)):
        for i in range(top, top + s):
            for j in range(left, left + s):
                new[c][i][j] = colours[c]
    return new


def followed(change, follow, jump):
    """Return whether a step with this change of the loss is kept."""
    if follow == "down":
        return change < 0
    if follow == "up":
        return change > 0
    upwards = abs(change) > jump if follow == "both" else abs(change) <= jump
    return change > 0 if upwards else change < 0


def square(model, x, y, eps, p, n, budget, draws, follow="down", jump=6.0):
    """Return one entry per query: the point, the recorded loss after it, and the side of its window."""
    channels, height, width = x.shape
    history = []
    stripes = draws.stripes()
    kept = [[[stripes[c][j] for j in range(width)] for _ in range(height)] for c in range(channels)]
    if budget == 0:
        return history
    point = point_of(x, kept, eps)
    loss = margin(model(point), y)
    history.append({"point": point, "loss": loss, "side": None})
    for t in range(budget - 1):
        s = side(t, n, p, height)
        top_draw, left_draw = draws.corner(t)
        top, left = int(top_draw * (height - s)), int(left_draw * (width - s))
        paint = draws.paint(t)
        candidate = painted(kept, top, left, s, paint)
        if candidate == kept:
            flips = draws.other(t)
            colours = [-paint[c] if flips[c] else paint[c] for c in range(channels)]
            candidate = painted(kept, top, left, s, colours)
        point = point_of(x, candidate, eps)
        value = margin(model(point), y)
        if followed(value - loss, follow, jump):
            kept, loss = candidate, value
        history.append({"point": point, "loss": loss, "side": s})
    return history

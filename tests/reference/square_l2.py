"""Square, l2, on one image; the schedule and the loss are those of linf."""

import math

import torch

from reference.square import HALVED_AFTER, margin


def mound(a, b):
    """Return nested rectangles around the centre of a x b cells, of unit norm."""
    cells = [[0.0] * b for _ in range(a)]
    row, column = a // 2, b // 2
    for k in range(max(row, column) + 1):
        for i in range(a):
            for j in range(b):
                if abs(i - row) <= k and abs(j - column) <= k:
                    cells[i][j] += 1 / (k + 1) ** 2
    return scaled(cells, 1.0)


def length(cells):
    return math.sqrt(sum(value**2 for row in cells for value in row))


def scaled(cells, factor):
    """Return the cells at the norm `factor`."""
    whole = length(cells)
    return [[factor * value / whole for value in row] for row in cells]


def bump(s):
    """Return the s x s bump of unit norm: a mound above, the negative of one below."""
    upper = mound(s // 2, s) if s >= 2 else []
    lower = mound(s - s // 2, s)
    return scaled(upper + [[-value for value in row] for row in lower], 1.0)


def transposed(cells):
    return [list(column) for column in zip(*cells, strict=True)]


def side(t, n, p, height):
    tau = math.floor(t / n * 10000)
    for after in HALVED_AFTER:
        if tau > after:
            p = p / 2
    s = max(round(math.sqrt(p * height * height)), 3)
    return s + 1 if s % 2 == 0 else s


def at_norm(x, delta, eps):
    """Return clip(x + delta, scaled to norm eps), rounded as images are."""
    whole = math.sqrt(sum(length(channel) ** 2 for channel in delta))
    values = [
        [
            [min(max(a + eps * b / whole, 0.0), 1.0) for a, b in zip(*pair, strict=True)]
            for pair in zip(*both, strict=True)
        ]
        for both in zip(x.tolist(), delta, strict=True)
    ]
    return torch.tensor(values)


def first_point(x, eps, draws):
    channels, height, width = x.shape
    s = height // 5
    down, across = min(height // s, 5), width // s
    delta = [[[0.0] * width for _ in range(height)] for _ in range(channels)]
    shape = bump(s)
    top, left = (height - down * s) // 2, (width - across * s) // 2
    turns, signs = draws.start(down * across)
    for cell in range(down * across):
        oriented = transposed(shape) if turns[cell] else shape
        for c in range(channels):
            for i in range(s):
                for j in range(s):
                    row, column = top + cell // across * s + i, left + cell % across * s + j
                    delta[c][row][column] = signs[c][cell] * oriented[i][j]
    return at_norm(x, delta, eps)


def next_point(x, kept, s, eps, draws, t):
    """Return the kept point with the mass of two windows moved to a bump in the first."""
    channels, height, width = x.shape
    delta = (kept.double() - x.double()).tolist()
    u = draws.windows(t)
    corners = [int(u[k] * ((height, width)[k % 2] - s)) for k in range(4)]
    windows = [{(a + i, b + j) for i in range(s) for j in range(s)} for a, b in (corners[:2], corners[2:])]
    shape = transposed(bump(s)) if draws.turn(t) else bump(s)
    free = max(eps**2 - sum(length(channel) ** 2 for channel in delta), 0.0) / channels
    for c, sign in enumerate(draws.sign(t)):
        held = sum(delta[c][i][j] ** 2 for i, j in windows[0] | windows[1])
        inside = math.sqrt(sum(delta[c][i][j] ** 2 for i, j in windows[0]))
        content = [
            [sign * shape[i][j] + delta[c][corners[0] + i][corners[1] + j] / (inside + 1e-10) for j in range(s)]
            for i in range(s)
        ]
        content = scaled(content, math.sqrt(free + held))
        for i, j in windows[1]:
            delta[c][i][j] = 0.0
        for i in range(s):
            for j in range(s):
                delta[c][corners[0] + i][corners[1] + j] = content[i][j]
    return at_norm(x, delta, eps)


def square_l2(model, x, y, eps, p, n, budget, draws):
    """Return one entry per query: the point, the recorded loss after it, and the side of its windows."""
    history = []
    kept = first_point(x, eps, draws)
    loss = margin(model(kept), y)
    history.append({"point": kept, "loss": loss, "side": None})
    for t in range(budget - 1):
        s = side(t, n, p, x.shape[1])
        point = next_point(x, kept, s, eps, draws, t)
        value = margin(model(point), y)
        if value < loss:
            kept, loss = point, value
        history.append({"point": point, "loss": loss, "side": s})
    return history

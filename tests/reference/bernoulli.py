"""The Bernoulli attack on one image, number by number."""

import math


def bernoulli(model, x, y, target, eps, norm, grid, rate, loss, budget, draws, scales=()):
    """Return one entry per query, the point, theta after it and the submitted point, before it the first submission.

    `model` answers logits, or a label for a decision; `loss` is "margin", "cross_entropy" or "decision". `scales` has
    pairs of a query and the cells per side of the signs before it; later ones have those of the grid.
    """
    channels, height, width = x.shape
    pixels = x.tolist()
    cells = [(c, i, j) for c in range(channels) for i in range(grid) for j in range(grid)]
    theta = dict.fromkeys(cells, 0.0)
    average = spread = 0.0

    def point(value):
        length = 1.0
        if norm == "l2":
            every = [value[c, i * grid // height, j * grid // width] for c, i, j in places]
            length = math.sqrt(sum(a * a for a in every))
        moved = x.clone()
        for c, i, j in places:
            change = value[c, i * grid // height, j * grid // width] / length
            moved[c, i, j] = min(max(pixels[c][i][j] + eps * change, 0.0), 1.0)
        return moved

    def drawn(k, means):
        fine = dict(zip(cells, draws.signs(k, means), strict=True))
        side = min([side for end, side in scales if k < end] or [grid])
        firsts = [min(i for i in range(grid) if i * side // grid == j) for j in range(side)]
        shared = {(c, i, j): fine[c, firsts[i * side // grid], firsts[j * side // grid]] for c, i, j in cells}
        return shared, channels * side**2

    def submitted():
        if norm == "l2":
            return point({cell: theta[cell] or signs[cell] for cell in cells})
        return point({cell: math.copysign(1, theta[cell]) if theta[cell] else signs[cell] for cell in cells})

    places = [(c, i, j) for c in range(channels) for i in range(height) for j in range(width)]
    signs, _ = drawn(0, [0.0] * len(cells))
    first = submitted()
    history = []
    for k in range(budget):
        means = [math.tanh(theta[cell]) if norm == "linf" else 0.0 for cell in cells]
        signs, count = drawn(k, means)
        asked = point(signs if norm == "linf" else {cell: theta[cell] + signs[cell] for cell in cells})
        value = loss_of(model(asked), y, target, loss)
        fall = max(-3.0, min(3.0, (average - value) / max(math.sqrt(spread), 1e-30))) if k >= 4 else 0.0
        for cell, mean in zip(cells, means, strict=True):
            theta[cell] += rate * 4 / math.sqrt(count) * fall * (signs[cell] - mean)
        if norm == "linf":
            theta = {cell: max(-2.5, min(2.5, t)) for cell, t in theta.items()}
        else:
            size = math.sqrt(sum(t * t for t in theta.values()) / len(cells))
            theta = {cell: t * min(1.0, 2.5 / size) if size else t for cell, t in theta.items()}
        weight = max(1 / (k + 1), 0.05)
        change = value - average
        average += weight * change
        spread = (1 - weight) * (spread + weight * change**2)
        history.append({"point": asked, "theta": dict(theta), "submitted": submitted()})
    return first, history


def loss_of(answer, y, target, loss):
    """Return what the attacker lowers."""
    of, sign = (y, 1) if target < 0 else (target, -1)
    if loss == "decision":
        adversarial = answer != y if target < 0 else answer == target
        return 0.0 if adversarial else 1.0
    if loss == "cross_entropy":
        return sign * float(answer.log_softmax(0)[of])
    return sign * float(answer[of] - max(z for k, z in enumerate(answer) if k != of))

"""Bandits with time and data priors on one image."""

import math

import torch

from reference.ascent import SpentError, into_ball, into_pixels


def loss_of(logits, y, which):
    """Return what the attacker lowers."""
    if which == "cross_entropy":
        return torch.log_softmax(logits, 0)[y].item()
    return logits[y].item() - max(logits[k].item() for k in range(len(logits)) if k != y)


def enlarge(coarse, height, width):
    channels, side = len(coarse), len(coarse[0])
    large = torch.zeros(channels, height, width)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                large[c, i, j] = coarse[c][math.floor(i * side / height)][math.floor(j * side / width)]
    return large


def exponentiated(v, gradient, rate):
    """Return one step of exponentiated gradient on [-1, 1]."""
    a = (v + 1) / 2
    up, down = a * torch.exp(rate * gradient), (1 - a) * torch.exp(-rate * gradient)
    return 2 * up / (up + down) - 1


def bandits(model, x, y, eps, norm, side, probe, exploration, prior_step, step, loss, paper, budget, normal):
    """Return one entry per query: the point, whether it is a look, and after the answer the iterate and the prior.

    `normal(k)` gives the k-th draw from N(0, I), of the prior's shape.
    """
    channels, height, width = x.shape
    history = []
    iterate = x.clone()
    v = torch.zeros(channels, side, side, dtype=torch.float64)

    def query(point, look=False):
        if len(history) == budget:
            raise SpentError
        history.append({"point": point, "look": look, "iterate": iterate, "prior": v})
        return loss_of(model(point), y, loss)

    def probed(coarse):
        q = enlarge(coarse, height, width)
        point = iterate + probe * q / q.norm()
        return point if paper else into_pixels(point)

    t = 0
    try:
        while True:
            u = exploration * normal(t).double() / math.sqrt(channels * side * side)
            plus = query(probed(v + u))
            minus = query(probed(v - u))
            e = (minus - plus) / (probe * exploration)
            v = exponentiated(v, e * u, prior_step) if norm == "linf" else v + prior_step * e * u
            along = enlarge(v, height, width)
            if norm == "linf":
                moved = iterate + step * torch.sign(along)
            else:
                moved = iterate + step * along / along.norm() if along.norm() > 0 else iterate
            iterate = into_ball(x, moved, eps, norm)
            if not paper:
                iterate = into_pixels(iterate)
            history[-1] |= {"iterate": iterate, "prior": v}
            query(iterate, True)
            t += 1
    except SpentError:
        return history

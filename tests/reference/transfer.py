"""MI-FGSM on a surrogate, and queries at its ends, on one image."""

import torch

from reference.ascent import into_ball, into_pixels


def crafted(surrogate, x, eps, norm, points, steps, step, momentum, start):
    """Return the ends of the runs, the lowest loss of the surrogate first, and these losses.

    `surrogate(p)` returns the loss that the attacker lowers and its gradient, `start(k)` the random start of run k.
    """
    ends = []
    for number in range(points):
        point = start(number) if number else x
        g = torch.zeros_like(x)
        for _ in range(steps):
            gradient = surrogate(point)[1]
            total = sum(abs(value) for value in gradient.flatten().tolist())
            g = momentum * g + (gradient / total if total > 0 else gradient)
            move = torch.sign(g) if norm == "linf" else g / g.norm().clamp_min(1e-30)
            point = into_pixels(into_ball(x, point - step * move, eps, norm))
        ends.append((surrogate(point)[0], number, point))
    ends.sort(key=lambda end: end[:2])
    return [end[2] for end in ends], [end[0] for end in ends]


def transfer(margin, points, budget):
    """Return one entry per query: the point, and the point that is submitted after the answer."""
    history, answers = [], [[] for _ in points]
    for query in range(budget):
        which = query % len(points)
        answers[which].append(margin(points[which]))
        means = [sum(each) / len(each) if each else float("inf") for each in answers]
        history.append({"point": points[which], "submitted": points[means.index(min(means))]})
    return history

"""RayS, linf, on one image."""

import math

import torch

TOLERANCE = 1e-3


class BudgetSpentError(Exception):
    pass


def point_of(x, v, radius):
    """Return clip(x + radius v / sqrt(d)); the pixel step is rounded to float32 as images are."""
    step = torch.tensor(radius / math.sqrt(len(v))).item()
    values = [min(max(a + step * b, 0.0), 1.0) for a, b in zip(x.flatten().tolist(), v, strict=True)]
    return torch.tensor(values).view(x.shape)


def rays(model, x, y, budget):  # noqa: C901 - the steps in the order of the paper
    """Return one entry per query (the point, the radius known before it) and the final direction and radius.

    Also returns, for each check that succeeded and whose bisection ended, the bracket's length and how many
    queries the bisection took.
    """
    d = x.numel()
    v, r = [1] * d, math.inf
    history, bisections = [], []

    def adversarial(direction, radius):
        if len(history) == budget:
            raise BudgetSpentError
        point = point_of(x, direction, radius)
        history.append({"point": point, "radius": r})
        return model(point).argmax().item() != y

    try:
        level = 0
        while True:
            length = math.ceil(d / 2**level)
            for block in range(2**level):
                first = block * length
                if first >= d:
                    break
                trial = list(v)
                for i in range(first, min(first + length, d)):
                    trial[i] = -trial[i]
                bracket = min(r, math.sqrt(d))
                if not adversarial(trial, bracket):
                    continue
                low, high, taken = 0.0, bracket, 0
                while True:
                    middle = (low + high) / 2
                    taken += 1
                    if adversarial(trial, middle):
                        high = middle
                    else:
                        low = middle
                    if high - low <= TOLERANCE:
                        break
                bisections.append((bracket, taken))
                if high < r:
                    r, v = high, trial
            level += 1
    except BudgetSpentError:
        pass
    return history, v, r, bisections

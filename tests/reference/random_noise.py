"""Random signs on the surface of the ball, on one image."""

import math

import torch


def random_noise(model, x, y, eps, norm, budget, draws):
    """Return one entry per query (the point, whether it was misclassified) and the point to submit."""
    size = eps if norm == "linf" else eps / math.sqrt(x.numel())
    size = torch.tensor(size).item()
    history, submitted = [], x
    found = False
    for number in range(budget):
        noise = draws.signs(number)
        values = [min(max(a + size * s, 0.0), 1.0) for a, s in zip(x.flatten().tolist(), noise, strict=True)]
        point = torch.tensor(values).view(x.shape)
        wrong = model(point).argmax().item() != y
        if wrong or not found:
            submitted = point
        found = found or wrong
        history.append({"point": point, "wrong": wrong})
    return history, submitted

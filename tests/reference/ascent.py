"""What the attacks along estimated gradients share: the end of the budget, the ball and the pixel range."""

import torch


class SpentError(Exception):
    """The budget is spent."""


def into_ball(x, point, eps, norm):
    delta = point - x
    if norm == "linf":
        limit = torch.full_like(x, eps)
        return x + torch.minimum(torch.maximum(delta, -limit), limit)
    length = delta.norm()
    return x + delta * min(1.0, (eps / length).item()) if length > 0 else x + delta


def into_pixels(point):
    return torch.minimum(torch.maximum(point, torch.zeros_like(point)), torch.ones_like(point))

"""Projected gradient descent on one image, written as a loop over runs."""

import torch


def cross_entropy(logits, y):
    return torch.logsumexp(logits, 0) - logits[y]


def pgd(model, x, y, eps, norm, steps, step, budget, starting_points, random_start):
    """Return the points asked, in order, and the one to submit.

    Args:
        model: From one image to its logits.
        starting_points: From the number of a run to its offset from the image.
    """
    asked, submitted, run = [], x, 0
    while len(asked) < budget:
        point = x + starting_points(run) if random_start or run > 0 else x
        point = point.clamp(0, 1)
        for _ in range(steps):
            if len(asked) == budget:
                break
            asked.append(point)
            variable = point.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(cross_entropy(model(variable), y), variable)
            move = gradient.sign() if norm == "linf" else gradient / gradient.pow(2).sum().sqrt()
            delta = point + step * move - x
            if norm == "linf":
                delta = delta.clamp(-eps, eps)
            else:
                delta = delta * min(1.0, eps / float(delta.pow(2).sum().sqrt()))
            point = (x + delta).clamp(0, 1)
            if run == 0:
                submitted = point
        else:
            if len(asked) < budget:
                asked.append(point)
                submitted = point
                run += 1
    return asked, submitted

"""Boundary, l2, on one image."""

import math

import torch


class BudgetSpentError(Exception):
    pass


def length(delta):
    return torch.linalg.vector_norm(delta.flatten()[None], dim=1)[0]


def single(value):
    return torch.tensor(value, dtype=torch.float64).float()


def propose(x, b, move, sideways, inwards):
    """Return the point aside on the sphere around x, and the proposal nearer to x."""
    back = x - b
    radius = length(back)
    unit = back / radius
    across = move - (move * unit).flatten()[None].sum(1)[0] * unit
    across = across * (single(sideways) * radius / length(across))
    on_sphere = (across - back) * torch.tensor(1 + sideways**2, dtype=torch.float64).rsqrt().float()
    spherical = (on_sphere + x).clamp(0, 1)
    rest = x - spherical
    step = (single(inwards) * radius + (length(rest) - radius)).clamp_min(0)
    return spherical, (rest * (step / length(rest)) + spherical).clamp(0, 1)


def boundary(model, x, y, budget, draws, spherical_step, source_step, every, windows, target=None, start=None):  # noqa: C901
    """Return one entry per query (the point, what it was for, both steps) and the nearest hit.

    `draws.noise(n)` gives uniform pixels, and `draws.move(n)` a normal image.
    """
    history = []
    sideways, inwards = spherical_step, source_step
    nearest, distance = x, math.inf

    def is_adversarial(point, purpose):
        if len(history) == budget:
            raise BudgetSpentError
        history.append({"point": point, "for": purpose, "sideways": sideways, "inwards": inwards})
        label = model(point).argmax().item()
        return label == target if target is not None else label != y

    def within(step):
        return min(max(step, 1e-7), 0.5)

    try:
        tried = 0
        while True:
            far = draws.noise(tried) if start is None else start
            tried += 1
            hit = is_adversarial(far, "start")
            nearest = far
            if hit:
                break
        distance = length(far - x).item()
        low, high = 0.0, 1.0
        while start is None and high - low > 1e-3:
            middle = (low + high) / 2
            point = ((far - x) * single(middle) + x).clamp(0, 1)
            if is_adversarial(point, "blend"):
                high, nearest, distance = middle, point, length(point - x).item()
            else:
                low = middle
        sphere_window, step_window = [], []
        number = 0
        while True:
            number += 1
            spherical, proposal = propose(x, nearest, draws.move(number - 1), sideways, inwards)
            if number % every == 0:
                sphere_window = [*sphere_window, is_adversarial(spherical, "sphere")][-windows[0] :]
            hit = is_adversarial(proposal, "proposal")
            if hit and length(proposal - x).item() < distance:
                nearest, distance = proposal, length(proposal - x).item()
            if number % every == 0:
                step_window = [*step_window, hit][-windows[1] :]
                if len(sphere_window) == windows[0]:
                    rate = sum(sphere_window) / windows[0]
                    if rate > 0.5:
                        sideways, inwards, sphere_window = within(sideways * 1.5), within(inwards * 1.5), []
                    elif rate < 0.2:
                        sideways, inwards, sphere_window = within(sideways / 1.5), within(inwards / 1.5), []
                if len(step_window) == windows[1]:
                    rate = sum(step_window) / windows[1]
                    if rate > 0.25:
                        inwards, step_window = within(inwards * 1.5), []
                    elif rate < 0.1:
                        inwards, step_window = within(inwards / 1.5), []
    except BudgetSpentError:
        pass
    return history, nearest

"""HopSkipJump, linf and l2, on one image."""

import math

import torch


class BudgetSpentError(Exception):
    pass


def length(delta, norm):
    flat = delta.flatten(1) if delta.ndim == 4 else delta.flatten()[None]
    return flat.abs().amax(1)[0] if norm == "linf" else torch.linalg.vector_norm(flat, dim=1)[0]


def single(value):
    return torch.tensor(value, dtype=torch.float64).float()


def hsja(model, x, y, norm, budget, draws, init_probes=100, max_probes=10_000, gap=None, target=None, start=None):  # noqa: C901
    """Return one entry per query (the point, what it was for, the iteration) and the nearest hit.

    `draws.noise(n)` gives uniform pixels, and `draws.probe(n)` a direction of any length.
    """
    d = x.numel()
    theta = gap or (d**-1.5 if norm == "l2" else 1 / d**2)
    history = []
    drawn = 0
    nearest, distance = x, math.inf
    t = 0

    def is_adversarial(point, purpose):
        nonlocal nearest, distance
        if len(history) == budget:
            raise BudgetSpentError
        history.append({"point": point, "for": purpose, "t": t})
        label = model(point).argmax().item()
        hit = label == target if target is not None else label != y
        far = length(point - x, norm).item()
        if distance == math.inf or (hit and far < distance):
            nearest = point
        if hit and far < distance:
            distance = far
        return hit

    def on_segment(far, share):
        return ((far - x) * single(share) + x).clamp(0, 1)

    def clamped(far, share):
        radius = single(share * length(far - x, "linf").double().item())
        return torch.maximum(torch.minimum(far, x + radius), x - radius).clamp(0, 1)

    def bisect(far, candidate, stop, purpose):
        low, high, kept = 0.0, 1.0, far
        while high - low > stop:
            middle = (low + high) / 2
            point = candidate(far, middle)
            if is_adversarial(point, purpose):
                high, kept = middle, point
            else:
                low = middle
        return kept

    draw_near = on_segment if norm == "l2" else clamped
    try:
        while True:
            far = draws.noise(drawn) if start is None else start
            drawn += 1
            if is_adversarial(far, "start"):
                break
        if start is None:
            far = bisect(far, on_segment, 1e-3, "blend")
        reach = length(far - x, norm).double().item()
        b = bisect(far, draw_near, theta, "project")
        while True:
            t += 1
            size = 0.1 if t == 1 else (math.sqrt(d) if norm == "l2" else d) * theta * reach
            n = min(int(init_probes * math.sqrt(t)), max_probes)
            signed, total, answers = torch.zeros_like(x), torch.zeros_like(x), 0
            for _ in range(n):
                w = draws.probe(drawn)
                drawn += 1
                point = (w * single(size / length(w, "l2").double().item()) + b).clamp(0, 1)
                sign = 1 if is_adversarial(point, "probe") else -1
                total = total + (point - b)
                signed = signed + sign * (point - b)
                answers += sign
            estimate = signed if abs(answers) == n else signed - single(answers / n) * total
            g = estimate / length(estimate, "l2")
            direction = g if norm == "l2" else g.sign()
            xi = length(b - x, norm).double().item() / math.sqrt(t)
            for _ in range(20):
                trial = (single(xi) * direction + b).clamp(0, 1)
                if is_adversarial(trial, "step"):
                    reach = length(trial - x, norm).double().item()
                    b = bisect(trial, draw_near, theta, "project")
                    break
                xi = xi / 2
    except BudgetSpentError:
        pass
    return history, nearest

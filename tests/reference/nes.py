"""NES on one image."""

import torch

from reference.ascent import SpentError, into_ball, into_pixels


def loss_of(logits, y, target, which):
    """Return what the attacker lowers, a float of single precision."""
    of = y if target < 0 else target
    if which == "cross_entropy":
        value = torch.log_softmax(logits, 0)[of].item()
    else:
        rest = [logits[k].item() for k in range(len(logits)) if k != of]
        value = logits[of].item() - max(rest)
    return torch.tensor(value if target < 0 else -value)


def nes(model, x, y, target, eps, norm, pairs, sigma, step, loss, paper, budget, normal):
    """Return one entry per query: the point, whether it is a look, and the iterate after the answer.

    `normal(k)` gives the k-th draw from N(0, I).
    """
    history = []
    iterate = x.clone()

    def query(point, look):
        if len(history) == budget:
            raise SpentError
        history.append({"point": point, "look": look, "iterate": iterate})
        return loss_of(model(point), y, target, loss)

    def probe(point):
        return point if paper else into_pixels(point)

    iteration = 0
    try:
        while True:
            total = torch.zeros_like(x)
            for i in range(pairs):
                u = normal(iteration * pairs + i)
                plus = query(probe(iterate + sigma * u), False)
                minus = query(probe(iterate - sigma * u), False)
                total = total + (minus - plus) / (2 * sigma) * u
            if norm == "linf":
                moved = iterate + step * torch.sign(total)
            else:
                moved = iterate + step * (total / total.norm()) if total.norm() > 0 else iterate
            iterate = into_ball(x, moved, eps, norm)
            if not paper:
                iterate = into_pixels(iterate)
            history[-1]["iterate"] = iterate
            query(iterate, True)
            iteration += 1
    except SpentError:
        return history

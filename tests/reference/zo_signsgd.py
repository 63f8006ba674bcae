"""ZO-signSGD on one image."""

import torch

from reference.ascent import SpentError, into_ball, into_pixels


def loss_of(logits, y, which):
    """Return what the attacker lowers, a float of single precision."""
    if which == "cross_entropy":
        return torch.log_softmax(logits, 0)[y]
    rest = [logits[k].item() for k in range(len(logits)) if k != y]
    return torch.tensor(logits[y].item() - max(rest))


def zo_signsgd(model, x, y, eps, norm, samples, sigma, step, loss, paper, budget, normal):
    """Return one entry per query: the point, whether it only looks, and the iterate after the answer.

    `normal(k)` gives the k-th draw from N(0, I).
    """
    history = []
    iterate = x.clone()

    def query(point, look=False):
        if len(history) == budget:
            raise SpentError
        history.append({"point": point, "look": look, "iterate": iterate})
        return loss_of(model(point), y, loss)

    iteration = 0
    try:
        while True:
            total = torch.zeros_like(x)
            if not paper:
                base = query(iterate)
            for i in range(samples):
                u = normal(iteration * samples + i)
                if paper:
                    value = query(iterate + sigma * u)
                    base = query(iterate)
                else:
                    value = query(into_pixels(iterate + sigma * u))
                total = total + (base - value) * u
            iterate = into_ball(x, iterate + step * torch.sign(total), eps, norm)
            if not paper:
                iterate = into_pixels(iterate)
            history[-1]["iterate"] = iterate
            if paper:
                query(iterate, True)
            iteration += 1
    except SpentError:
        return history

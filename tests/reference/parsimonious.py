"""The Parsimonious attack on one image."""

import torch

from reference.ascent import SpentError
from reference.nes import loss_of


def parsimonious(model, x, y, target, eps, block, loss, budget, order):  # noqa: C901 - the paper's loops
    """Return one entry per query: the point, and what would be submitted after the answer.

    `order(number, size)` gives a random order of so many places.
    """
    channels, height, width = x.shape
    signs = torch.full_like(x, -1)
    history = []

    def point():
        return (x + eps * signs).clamp(0, 1)

    def query():
        if history:
            history[-1]["submitted"] = submitted[-1]
        if len(history) == budget:
            raise SpentError
        history.append({"point": point()})
        return loss_of(model(history[-1]["point"]), y, target, loss)

    def negate(place, side):
        c, i, j = place
        signs[c, i : i + side, j : j + side] *= -1

    submitted = [point()]
    sweep = 0
    try:
        while True:
            side = max(block >> sweep, 1)
            corners = [
                (c, i, j) for c in range(channels) for i in range(0, height, side) for j in range(0, width, side)
            ]
            places = [corners[k] for k in order(sweep, len(corners))]
            sweep += 1
            for begin in range(0, len(places), 64):
                batch = places[begin : begin + 64]
                kept = query()
                for sign in (-1, 1):
                    change = {k: -torch.inf for k, place in enumerate(batch) if signs[place] == sign}
                    exact = set()
                    while change:
                        k = min(change, key=lambda slot: (float(change[slot]), slot))
                        if change[k] >= 0:
                            break
                        if k in exact:
                            negate(batch[k], side)
                            kept = kept + change.pop(k)
                            exact = set()
                            submitted.append(point())
                        else:
                            negate(batch[k], side)
                            answer = query()
                            negate(batch[k], side)
                            change[k] = answer - kept
                            exact.add(k)
    except SpentError:
        return history

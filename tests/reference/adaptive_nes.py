"""NES whose probes, pairs and steps follow from the noise, on one image."""

import math

import torch

from reference.adaptive_square import mean, variance
from reference.ascent import SpentError, into_ball, into_pixels
from reference.bandits import enlarge
from reference.nes import loss_of


def adaptive_nes(model, x, y, target, eps, norm, pairs, step, momentum, probes, loss, budget, normal):
    """Return one entry per query: the point, whether it is a look, and the iterate after the answer.

    `normal(k)` gives the k-th draw from N(0, I) of grid cells; `probes` are the shortest and the longest.
    """
    history = []
    iterate, velocity = x.clone(), torch.zeros_like(x)
    unit = eps if norm == "linf" else eps / math.sqrt(x.numel())
    shortest, longest = probes

    def query(point, look=False):
        if len(history) == budget:
            raise SpentError
        history.append({"point": point, "look": look, "iterate": iterate})
        return float(loss_of(model(point), y, target, loss))

    def inside(point):
        return into_pixels(into_ball(x, point, eps, norm))

    try:
        clean = [query(x), query(x)]
        random = math.sqrt(variance([clean])) > 1e-3 * abs(mean(clean))
        if random:
            clean += [query(x) for _ in range(3)]
        noise = variance([clean])
        probe, n, length = (longest if random else shortest), pairs, step
        signal, drawn = 0.0, 0
        while True:
            total = torch.zeros_like(x)
            for _ in range(n):
                u = enlarge(normal(drawn).tolist(), *x.shape[1:])
                plus, minus = inside(iterate + probe * unit * u), inside(iterate - probe * unit * u)
                half = (-query(plus) + query(minus)) / 2
                total += half / probe**2 * (plus - minus) / (2 * unit)
                seen = (half**2 - noise / 2) / probe**2
                signal += max(0.05, 1 / (drawn + 1)) * (seen - signal)
                drawn += 1
            velocity = momentum * velocity + total / n
            if norm == "linf":
                along = velocity.sign()
            else:
                along = velocity / velocity.norm() if velocity.norm() > 0 else velocity
            iterate = inside(iterate + eps * length * along)
            history[-1]["iterate"] = iterate
            strength = max(signal, 1e-30)
            probe = min(max(math.sqrt(noise / 2 / strength), shortest), longest)
            excess = 1 + noise / 2 / (strength * probe**2)
            n = min(round(pairs * excess), 10 * pairs)
            length = step * min(1.0, max(0.25, math.sqrt(n / (pairs * excess))))
            query(iterate, look=True)
    except SpentError:
        return history

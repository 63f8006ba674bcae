"""PopSkipJump, linf and l2, on one image."""

import math

import torch

from reference.hsja import BudgetSpentError, length, single

WIDTHS = torch.tensor([0.0] + [0.32 / 2**k for k in range(9, -1, -1)], dtype=torch.float64)
FLIPS = torch.tensor([0.0, 0.03, 0.1, 0.2, 0.3], dtype=torch.float64)
PRIOR = torch.tensor([0.5] + [0.05] * 10, dtype=torch.float64)[None, :, None].repeat(16, 1, 5) / 80


def chances(share, centres):
    """Return P(adversarial) at a share of the segment for centres, widths and flip rates."""
    distance = share - centres[:, None]
    steps = torch.where(WIDTHS > 0, 1 / (1 + (-distance / WIDTHS).exp()), (distance > 0).double())
    return FLIPS + (1 - 2 * FLIPS) * steps[..., None]


def entropy(p):
    return sum(torch.where(q > 0, -q * q.log(), 0) for q in (p, 1 - p))


def median(masses, values):
    return next(float(values[k]) for k in range(len(values)) if masses[: k + 1].sum() >= 0.5 - 1e-9)


class Bisection:
    """The posterior of centre, width and flip rate after answers on a segment whose far end is adversarial."""

    def __init__(self):
        self.low, self.high, self.answers = 0.0, 1.0, [(1.0, True)]

    def posterior(self):
        self.centres = self.low + (self.high - self.low) * (torch.arange(16, dtype=torch.float64) + 0.5) / 16
        masses = PRIOR.clone()
        for share, adversarial in self.answers:
            p = chances(share, self.centres)
            masses = masses * (p if adversarial else 1 - p)
        return masses / masses.sum()

    def information(self):
        """Return the mutual information of the answer with the three, by share."""
        masses, found = self.posterior(), {}
        for j in range(1, 16):
            share = self.low + (self.high - self.low) * j / 16
            p = chances(share, self.centres)
            found[share] = float(entropy((masses * p).sum()) - (masses * entropy(p)).sum())
        return found

    def learn(self, share, adversarial):
        """Return the estimates of centre, its deviation, width and flip rate, and take a smaller bracket."""
        self.answers.append((share, adversarial))
        masses, span = self.posterior(), self.high - self.low
        cells = masses.sum((1, 2))
        centre = float((cells * self.centres).sum())
        deviation = math.sqrt(float((cells * (self.centres - centre) ** 2).sum()) + (span / 16) ** 2 / 12)
        below = cells.cumsum(0)
        first = max(int((below < 0.005).sum()) - 1, 0)
        last = min(int((below < 0.995).sum()) + 1, 15)
        if last - first + 1 <= 8:
            self.low, self.high = self.low + span * first / 16, self.low + span * (last + 1) / 16
        return centre, deviation, median(masses.sum((0, 2)), WIDTHS), median(masses.sum((0, 1)), FLIPS)


def popskipjump(model, x, y, norm, budget, draws, init_probes, gap, shares, target=None, start=None):  # noqa: C901
    """Return one entry per query (the point, what it was for, the iteration, the probes wanted) and the point kept.

    `shares` are the queries of bisections, each of which has to be among the most informative.
    """
    d = x.numel()
    theta = gap or (d**-1.5 if norm == "l2" else 1 / d**2)
    shares, history, drawn, t, moved = iter(shares), [], 0, 0, True
    kept, distance = x, math.inf

    def is_adversarial(point, purpose, wanted=None):
        nonlocal kept
        if len(history) == budget:
            raise BudgetSpentError
        history.append({"point": point, "for": purpose, "t": t, "wanted": wanted})
        if distance == math.inf:
            kept = point
        label = model(point).argmax().item()
        return label == target if target is not None else label != y

    def at(far, share):
        if norm == "l2":
            return ((far - x) * single(share) + x).clamp(0, 1)
        radius = single(share * length(far - x, "linf").double().item())
        return far.minimum(x + radius).maximum(x - radius).clamp(0, 1)

    def bisect(far):
        nonlocal kept, distance
        search, ended = Bisection(), False
        while not ended:
            information, share = search.information(), next(shares, None)
            if share is None:
                raise BudgetSpentError
            nearest = min(information, key=lambda known: abs(known - share))
            assert abs(nearest - share) < 1e-9
            assert information[nearest] >= max(information.values()) - 5e-5
            point = at(far, share)
            centre, deviation, width, flips = search.learn(share, is_adversarial(point, "project"))
            ended = deviation <= max(width, theta / 2) or len(search.answers) == 64
        b = at(far, centre)
        reached = length(b - x, norm).item()
        if reached < distance:
            kept, distance = far, reached
        return b, 1.702 * math.sqrt(d) * width * length(b - x, "l2").item() / centre, flips

    try:
        while True:
            far = draws.noise(drawn) if start is None else start
            drawn += 1
            if is_adversarial(far, "start"):
                break
        while True:
            if moved:
                reach = length(far - x, norm).item()
                b, blur, flips = bisect(far)
            t += 1
            size = 0.1 if t == 1 else (math.sqrt(d) if norm == "l2" else d) * theta * reach
            size = max(size, min(blur, length(b - x, "l2").item()))
            plain = int(init_probes * math.sqrt(t))
            wanted = math.ceil(plain * (1 + (blur / size) ** 2) / (1 - 2 * flips) ** 2)
            wanted = min(wanted, max(plain, budget // 5))
            signed, total, answers = 0 * x, 0 * x, 0
            for _ in range(wanted):
                w = draws.probe(drawn)
                drawn += 1
                point = (w * single(size / length(w, "l2").double().item()) + b).clamp(0, 1)
                sign = 1 if is_adversarial(point, "probe", wanted) else -1
                total, signed, answers = total + (point - b), signed + sign * (point - b), answers + sign
            estimate = signed if abs(answers) == wanted else signed - single(answers / wanted) * total
            g = estimate / length(estimate, "l2")
            direction = g if norm == "l2" else g.sign()
            step, moved = length(b - x, norm).item() / math.sqrt(t), False
            for _ in range(20):
                far = (single(step) * direction + b).clamp(0, 1)
                if is_adversarial(far, "step"):
                    moved = True
                    break
                step = step / 2
    except BudgetSpentError:
        pass
    return history, kept

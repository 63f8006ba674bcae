"""What OPT and Sign-OPT share on one image: radii along directions, the start and the line search."""

import math

import torch


class BudgetSpentError(Exception):
    pass


class NearestDirection:
    """theta, the nearest direction so far, and the radius of the last better step.

    `hit(label)` says whether a label is what the attacker wants. `history` has one entry per query: its point, its
    purpose, and the radius before it. With `published`, a norm, all is as in the published code for that norm.
    """

    def __init__(self, model, x, steps, hit, published=None):
        self.model, self.x, self.steps, self.hit, self.published = model, x, steps, hit, published
        self.shrink, self.beta, self.gap, self.start_gap = 0.9, 0.01, 0.01, 0.01
        if published:
            self.shrink, self.beta, self.gap, self.start_gap = 0.99, 0.001, 0.002, 0.00001
        self.history, self.radius, self.theta = [], math.inf, None

    def size(self, v):
        row = v.reshape(1, -1)
        return (row.abs().amax(1) if self.published == "linf" else torch.linalg.vector_norm(row, dim=1)).item()

    def unit(self, v):
        return v / torch.tensor(self.size(v))

    def wrong(self, theta, radius, purpose):
        if len(self.history) == self.steps:
            raise BudgetSpentError
        point = self.x + torch.tensor(radius) * theta
        point = point if self.published else point.clamp(0, 1)
        self.history.append({"point": point, "purpose": purpose, "radius": self.radius})
        return self.hit(self.model(point).argmax().item())

    def bisect(self, theta, low, high, gap):
        while True:
            middle = (low + high) / 2
            if self.wrong(theta, middle, "bisect"):
                high = middle
            else:
                low = middle
            if high - low <= gap:
                return high

    def shrunk(self, theta, high, gap):
        for _ in range(100):
            if not self.wrong(theta, self.shrink * high, "shrink"):
                return self.bisect(theta, self.shrink * high, high, gap)
            high = self.shrink * high
        return self.bisect(theta, 0.0, high, gap)

    def nearer(self, theta, gap):
        """Return the radius along theta, or infinity; only the published code looks beyond the best one."""
        if self.wrong(theta, self.radius, "try"):
            return self.shrunk(theta, self.radius, gap)
        return self.grown(theta, gap, 20.0) if self.published else math.inf

    def grown(self, theta, gap, farthest):
        """Return a radius beyond the best one, or infinity where there is none up to the farthest."""
        radius = self.radius
        while not self.wrong(theta, 1.01 * radius, "grow"):
            radius = 1.01 * radius
            if radius > farthest:
                return math.inf
        return self.bisect(theta, radius, 1.01 * radius, gap)

    def begin(self, draws, starting_points, start):
        """Find theta among random directions, or towards `start`."""
        tried = 0
        while tried < starting_points or self.theta is None:
            raw = draws(0, tried, self.x.shape) if start is None else start - self.x
            reach, nearest = self.size(raw), self.radius
            if not self.published:
                reach = min(reach, nearest)
            hit = self.wrong(self.unit(raw), reach, "start")
            if hit and reach > nearest:
                reach, hit = nearest, self.wrong(self.unit(raw), nearest, "check")
            if hit:
                radius = self.bisect(self.unit(raw), 0.0, reach, self.start_gap)
                if radius < self.radius:
                    self.radius, self.theta = radius, self.unit(raw)
            tried += 1

    def line_search(self, total, samples, alpha, gap):
        """Step along the mean of a total of samples while it helps, or by ever shorter steps; return the next alpha."""

        def stepped(a):
            return self.unit(self.theta - torch.tensor(a / samples) * total)

        found = None
        for _ in range(15):
            radius, tested = self.nearer(stepped(alpha), gap), alpha
            alpha *= 2
            if radius >= self.radius:
                break
            self.radius, found = radius, stepped(tested)
        if found is None:
            for _ in range(15):
                alpha *= 0.25
                radius = self.nearer(stepped(alpha), gap)
                if radius < self.radius:
                    self.radius, found = radius, stepped(alpha)
                    break
        self.theta = self.theta if found is None else found
        return alpha

    def restarted(self, alpha, beta):
        """Return alpha and beta; where alpha is too small, they begin again."""
        if alpha >= (1e-6 if self.published == "linf" else 1e-4):
            return alpha, beta
        return 1.0, self.beta if 0.1 * beta < 1e-8 else 0.1 * beta

"""What OPT and Sign-OPT share on one image: radii along directions, the start and the line search."""

import math

import torch

BETA = 0.01


class BudgetSpentError(Exception):
    pass


class NearestDirection:
    """theta, the nearest direction so far, and the radius of the last better step.

    `hit(label)` says whether a label is what the attacker wants. `history` has one entry per query: its point, its
    purpose, and the radius before it.
    """

    def __init__(self, model, x, steps, hit):
        self.model, self.x, self.steps, self.hit = model, x, steps, hit
        self.history, self.radius, self.theta = [], math.inf, None

    def size(self, v):
        return torch.linalg.vector_norm(v.reshape(1, -1), dim=1).item()

    def unit(self, v):
        return v / torch.tensor(self.size(v))

    def wrong(self, theta, radius, purpose):
        if len(self.history) == self.steps:
            raise BudgetSpentError
        point = (self.x + torch.tensor(radius) * theta).clamp(0, 1)
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
            if not self.wrong(theta, 0.9 * high, "shrink"):
                return self.bisect(theta, 0.9 * high, high, gap)
            high = 0.9 * high
        return self.bisect(theta, 0.0, high, gap)

    def nearer(self, theta, gap):
        """Return the radius along theta, or infinity if it is not below the best one."""
        return self.shrunk(theta, self.radius, gap) if self.wrong(theta, self.radius, "try") else math.inf

    def begin(self, draws, starting_points, start):
        """Find theta among random directions, or towards `start`."""
        tried = 0
        while tried < starting_points or self.theta is None:
            raw = draws(0, tried, self.x.shape) if start is None else start - self.x
            reach = min(self.size(raw), self.radius)
            if self.wrong(self.unit(raw), reach, "start"):
                radius = self.bisect(self.unit(raw), 0.0, reach, 0.01)
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
        if alpha >= 1e-4:
            return alpha, beta
        return 1.0, BETA if 0.1 * beta < 1e-8 else 0.1 * beta

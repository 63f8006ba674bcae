"""The races of Square against noise, on one image."""

import math

from reference.ascent import SpentError
from reference.nes import loss_of
from reference.square import painted, point_of
from reference.square import side as flat_side
from reference.square_l2 import first_point, next_point
from reference.square_l2 import side as round_side


def variance(groups):
    """Return the pooled variance of answers around the means of their points."""
    squares = sum(sum((a - mean(group)) ** 2 for a in group) for group in groups if group)
    return squares / max(sum(len(group) - 1 for group in groups if group), 1)


def mean(answers):
    return sum(answers) / len(answers)


class Flat:
    """Square's points in linf, from signs."""

    def __init__(self, x, eps, p, draws):
        self.x, self.eps, self.p, self.draws = x, eps, p, draws

    def start(self):
        channels, height, width = self.x.shape
        stripes = self.draws.stripes()
        return [[[stripes[c][j] for j in range(width)] for _ in range(height)] for c in range(channels)]

    def point(self, signs):
        return point_of(self.x, signs, self.eps)

    def propose(self, kept, step, time, length):
        channels, height, width = self.x.shape
        s = flat_side(time, length, self.p, height)
        corner = self.draws.corner(step - 1)
        top, left = int(corner[0] * (height - s)), int(corner[1] * (width - s))
        paint = self.draws.paint(step - 1)
        proposal = painted(kept, top, left, s, paint)
        if proposal == kept:
            flips = self.draws.other(step - 1)
            colours = [-paint[c] if flips[c] else paint[c] for c in range(channels)]
            proposal = painted(kept, top, left, s, colours)
        return proposal


class Round:
    """Square's points in l2."""

    def __init__(self, x, eps, p, draws):
        self.x, self.eps, self.p, self.draws = x, eps, p, draws

    def start(self):
        return first_point(self.x, self.eps, self.draws)

    def point(self, point):
        return point

    def propose(self, kept, step, time, length):
        s = round_side(time, length, self.p, self.x.shape[1])
        return next_point(self.x, kept, s, self.eps, self.draws, step - 1)


class Search:
    """The kept point, its answers and those of every other point, and the queries so far."""

    def __init__(self, points, answer, level, most, budget):
        self.points, self.answer, self.level, self.most, self.budget = points, answer, level, most, budget
        self.kept, self.answers, self.step = points.start(), [], 0
        self.groups, self.history = [self.answers], []

    def query(self, what, group):
        if len(self.history) == self.budget:
            raise SpentError
        self.history.append({"point": self.points.point(what)})
        group.append(self.answer(self.history[-1]["point"]))

    def note(self):
        self.history[-1] |= {"kept": self.points.point(self.kept), "loss": mean(self.answers), "step": self.step}

    def varies(self):
        return math.sqrt(variance(self.groups)) > 1e-3 * abs(mean(self.answers))

    def wins(self, proposal, rivals):
        """Query until one of the two is better, and return whether the proposal is."""
        while True:
            if rivals and len(self.answers) <= len(rivals):
                self.query(self.kept, self.answers)
            else:
                self.query(proposal, rivals)
            gap = mean(rivals) - mean(self.answers)
            error = math.sqrt(variance(self.groups) * (1 / len(rivals) + 1 / len(self.answers)))
            if abs(gap) >= self.level * error or len(rivals) >= self.most:
                return gap < 0
            self.note()


def adaptive_square(model, y, target, points, schedule_len, clock, level, most, loss, budget):
    """Return one entry per query: the point, and after it the kept point, its mean loss and the step."""
    search = Search(points, lambda point: float(loss_of(model(point), y, target, loss)), level, most, budget)
    try:
        while len(search.answers) < 2 or (search.varies() and len(search.answers) < 5):
            search.query(search.kept, search.answers)
            search.note()
        while True:
            search.step += 1
            search.note()
            length = schedule_len or (10_000 if search.varies() else budget)
            time = search.step - 1 if clock == "iterations" else len(search.history) - 1
            proposal, rivals = points.propose(search.kept, search.step, time, length), []
            search.groups.append(rivals)
            if search.wins(proposal, rivals):
                search.kept, search.answers = proposal, rivals
    except SpentError:
        return search.history

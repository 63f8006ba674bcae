"""The sigma at which a defense costs a given part of the clean accuracy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rfdlight.analysis.clean_cost import CleanCost, cost_of
from rfdlight.errors import UserError

TimesRight = Callable[[float, int, int], Tensor]
"""From the factor of sigma, the number of the first draw and that of draws to how often each image is right, (N,)."""

FIRST_DRAWS = 4
STEP = 4.0
"""Factor between the sigmas that are tried until the target lies between two of them, the first two apart."""

_EDGE = 0.1
"""Share of the way between two sigmas by which a third keeps away from both."""

FARTHEST = STEP**10
NARROWEST = 1.001
"""Ratio of two sigmas between which no third is tried."""

SURE = 4.0
"""Standard errors that tell two drops apart: a search asks so often that two would mislead it."""


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes:
        factor: Of the sigma that it began with.
        cost: At that sigma, from draws that the search has not seen.
        note: One line on what a reader must know of it, or nothing.
    """

    factor: float
    cost: CleanCost
    note: str = ""


@dataclass(frozen=True)
class Target:
    """The drop that is wanted, in (0, 1), and how near it must be."""

    drop: float
    tolerance: float

    def hit_by(self, cost: CleanCost) -> bool:
        """Whether the whole interval over draws lies inside the tolerance."""
        return abs(cost.drop - self.drop) + cost.half <= self.tolerance

    def surely_missed_by(self, cost: CleanCost) -> bool:
        """Whether the cost lies on one side of the target beyond doubt."""
        return abs(cost.drop - self.drop) > SURE * cost.error


class _Search:
    """The costs by the factor of sigma, and the factors between which the target lies."""

    def __init__(self, times_right: TimesRight, undefended: Tensor, target: Target, max_draws: int) -> None:
        self.times_right = times_right
        self.undefended = undefended
        self.target = target
        self.max_draws = max_draws
        self.unseen = max_draws  # number of the first draw that nothing was decided by
        self.tried: dict[float, CleanCost] = {}
        self.low, self.high = 0.0, math.inf  # too cheap, too dear
        self.width = math.inf

    def cost(self, factor: float, first: int = 0, wanted: int = FIRST_DRAWS) -> CleanCost:
        """Double the draws until they tell that the target is hit, or on which side of it the cost is."""
        draws = 0
        counts = torch.zeros_like(self.undefended)
        while True:
            counts += self.times_right(factor, first + draws, wanted - draws)
            cost, draws = cost_of(self.undefended, counts, wanted), wanted
            if draws == self.max_draws or self.target.hit_by(cost) or self.target.surely_missed_by(cost):
                return cost
            wanted = min(2 * draws, self.max_draws)

    def fresh_cost(self, factor: float, draws: int) -> CleanCost:
        """Return the cost from draws that nothing was decided by, at least so many, which are then used up."""
        cost = self.cost(factor, self.unseen, draws)
        self.unseen += cost.draws
        return cost

    def next(self) -> float | None:
        """Return the factor to try, or None where there is none left between the two.

        Raises:
            UserError: If no sigma within a factor of a million costs so much, or so little.
        """
        wanted = f"{100 * self.target.drop:g} points"
        if self.high == math.inf:
            if self.low * STEP > FARTHEST:
                raise self._refusal(f"as much as {wanted}", max(self.tried, key=lambda factor: self.tried[factor].drop))
            return self.low * self._stride(self.low)
        if self.low == 0:
            if self.high / STEP < 1 / FARTHEST:
                raise self._refusal(f"as little as {wanted}", self.high)
            return self.high / self._stride(self.high)
        return self._between() if self.high / self.low >= NARROWEST else None

    def _stride(self, factor: float) -> float:
        """Return the first step so that it hits a cost in proportion to sigma squared, and the later ones long."""
        drop = self.tried[factor].drop
        if len(self.tried) > 1 or drop <= 0:
            return STEP
        return min(STEP, math.exp(abs(math.log(self.target.drop / drop)) / 2))

    def _between(self) -> float:
        """Interpolate between the two as if the drop were a power of sigma, or bisect if that did not halve them."""
        width = math.log(self.high / self.low)
        halved, self.width = width <= self.width / 2, width
        below, above = self.tried[self.low].drop, self.tried[self.high].drop
        if below <= 0 or not halved:
            return (self.low * self.high) ** 0.5
        share = math.log(self.target.drop / below) / math.log(above / below)
        return self.low * math.exp(width * min(max(share, _EDGE), 1 - _EDGE))

    def found(self, factor: float, cost: CleanCost) -> Calibration:
        """Report a cost from fresh draws, and say if they do not show that it is near enough."""
        if self.target.hit_by(cost):
            return Calibration(factor, cost, self.falling())
        return Calibration(factor, cost, f"{cost.draws} draws do not bring it inside the tolerance")

    def narrowest(self) -> Calibration:
        """Measure the two between which there is no third anew, and report what hits, or else the cheaper one."""
        draws = max(self.tried[self.low].draws, self.tried[self.high].draws)
        low, high = (self.fresh_cost(factor, draws) for factor in (self.low, self.high))
        if self.target.hit_by(high) and not self.target.hit_by(low):
            return self.found(self.high, high)
        found = self.found(self.low, low)
        leaps = self.target.surely_missed_by(low) and self.target.surely_missed_by(high)
        if leaps and low.drop < self.target.drop < high.drop:
            return replace(found, note=f"the drop leaps over the target: {low} and, 0.1 % of sigma higher, {high}")
        return found

    def falling(self) -> str:
        """Say where a larger sigma costs less, beyond what the draws explain."""
        for smaller, larger in itertools.combinations(sorted(self.tried), 2):
            less, more = self.tried[smaller], self.tried[larger]
            if less.drop - more.drop > SURE * math.hypot(less.error, more.error):
                return (
                    f"the drop is not monotone in sigma: {less} at {smaller:g} times the given sigma, "
                    f"{more} at {larger:g} times"
                )
        return ""

    def _refusal(self, wanted: str, nearest: float) -> UserError:
        told = f"no sigma costs {wanted}: {self.tried[nearest]} at {nearest:g} times the given sigma"
        falling = self.falling()
        return UserError(f"{told}; {falling}" if falling else told)


def find_factor(
    times_right: TimesRight,
    undefended: Tensor,
    target: Target,
    max_draws: int,
    tell: Callable[[float, CleanCost], None] = lambda factor, cost: None,
) -> Calibration:
    """Find the factor of sigma whose cost is the target, by interpolation and bisection on its logarithm.

    At each sigma the draws are doubled until the interval over draws lies inside the tolerance, or the target
    is missed beyond doubt. A sigma that hits is measured again with as many fresh draws or more, which are what is
    reported.

    Args:
        times_right: Called with common random numbers: the same draw of two sigmas starts from the same seed.
        undefended: (N,) float64 of 0 and 1, whether the undefended answer is right.
        target: What the cost is to be.
        max_draws: At each sigma, at least `FIRST_DRAWS`.
        tell: Called with each factor that is tried, and its cost.

    Raises:
        UserError: If no sigma within a factor of a million costs so much, or so little.
    """
    search = _Search(times_right, undefended, target, max_draws)
    factor = 1.0
    while True:
        cost = search.tried[factor] = search.cost(factor)
        tell(factor, cost)
        near = abs(cost.drop - target.drop) <= target.tolerance
        if near and (target.hit_by(cost) or cost.half > target.tolerance):
            cost = search.tried[factor] = search.fresh_cost(factor, cost.draws)
            if target.hit_by(cost) or not target.surely_missed_by(cost):
                return search.found(factor, cost)
        if cost.drop < target.drop:
            search.low = factor
        else:
            search.high = factor
        following = search.next()
        if following is None:
            return search.narrowest()
        factor = following

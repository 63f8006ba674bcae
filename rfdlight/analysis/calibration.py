"""Calibration: find the sigma at which noise costs a target drop of clean accuracy.

The search is scipy's root finding on the logarithm of sigma, with common random draws. A root alone would report a drop
that was selected for being near the target; here the drop is confirmed with draws that the search has not used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from rfdlight.analysis.clean_cost import CleanCost, CleanCostMeter, cost_of
from rfdlight.data.sources import ImageSource
from rfdlight.data.subset import select
from rfdlight.defenses.noise import Noise
from rfdlight.engine.failures import VictimError
from rfdlight.errors import UserError, expect

Sigma = float | list[float]
TimesRight = Callable[[float, int, int], Tensor]
"""Maps a factor of sigma, the number of the first draw and a number of draws to correct answers per image, (N,)."""

FIRST_DRAWS = 4
ROUGH_IMAGES = 1000
"""Images, at most, of a rough calibration."""

_STRIDE = math.log(4.0)
_FARTHEST = 10.5 * _STRIDE
_NARROWEST = math.log(1.001)
_SURE = 4.0
"""Standard errors between a drop and the target that decide the side: a search compares too often for 1.96."""
_LEAST = 0.01
"""Share of the target below which the search does not distinguish drops, which may be negative."""


@dataclass(frozen=True)
class Calibration:
    """Result of a calibration.

    Attributes:
        factor: The calibrated sigma divided by the initial one.
        cost: Drop at the calibrated sigma, from draws that the search has not used.
        note: One line of warning, or "".
    """

    factor: float
    cost: CleanCost
    note: str = ""


@dataclass(frozen=True)
class Target:
    """Target drop of the clean accuracy.

    Attributes:
        drop: In (0, 1).
        tolerance: Accepted distance of the whole 95 % interval over draws, in (0, drop).
        max_draws: Draws per image and sigma, at most.

    Raises:
        UserError: If a value is out of range; names the option.
    """

    drop: float
    tolerance: float
    max_draws: int = 64

    def __post_init__(self) -> None:
        expect(0 < self.drop < 1, "target_drop", "a number in (0, 1)", self.drop, "0.02 is 2 points")
        fits = 0 < self.tolerance < self.drop
        expect(fits, "tolerance", "a number in (0, target_drop)", self.tolerance, "0.002 is 0.2 points")
        expect(self.max_draws >= FIRST_DRAWS, "max_draws", f"at least {FIRST_DRAWS}", self.max_draws)

    @classmethod
    def rough(cls, drop: float) -> Target:
        """Return a target with a quarter of the drop as tolerance, which suffices to compare insertion points."""
        return cls(drop, 0.25 * drop, 16)

    @property
    def points(self) -> str:
        """The drop as text, in percentage points."""
        return f"{100 * self.drop:g} points"

    def hit_by(self, cost: CleanCost) -> bool:
        """Return whether the whole interval over draws lies within the tolerance."""
        return abs(cost.drop - self.drop) + cost.half <= self.tolerance

    def surely_missed_by(self, cost: CleanCost) -> bool:
        """Return whether the drop is above or below the target beyond doubt."""
        return abs(cost.drop - self.drop) > _SURE * cost.error


def find_factor(
    times_right: TimesRight,
    undefended: Tensor,
    target: Target,
    report: Callable[[float, CleanCost], None] = lambda factor, cost: None,
) -> Calibration:
    """Find the factor of sigma at which the drop is the target, by Brent's method on its logarithm.

    At each factor the draws are doubled until the interval over draws lies within the tolerance, or the side of the
    target is certain. A factor that hits the target is measured again with as many fresh draws, which are reported.

    Args:
        times_right: Called with common random draws: a draw number means the same seed at every factor.
        undefended: (N,) float64 of 0 and 1, whether the undefended prediction is correct.
        target: Target drop.
        report: Called with each factor of the search and its cost.

    Raises:
        UserError: If all factors within 4^10 of 1 cost more than the target, or all cost less.
    """
    search = _Search(times_right, undefended, target, report, unused=target.max_draws)
    low, high = search.bracket()
    root = brentq(search.excess, low, high, xtol=_NARROWEST) if low < high else low
    return search.found or search.jump(root)


@dataclass
class _Search:
    """Costs by the logarithm x of the factor; `found` is set once a factor is confirmed."""

    times_right: TimesRight
    undefended: Tensor
    target: Target
    report: Callable[[float, CleanCost], None]
    unused: int  # number of the first draw that no decision has used
    tried: dict[float, CleanCost] = field(default_factory=dict)
    found: Calibration | None = None

    def excess(self, x: float) -> float:
        """Return log(drop / target), a straight line where the drop is a power of sigma; 0 if confirmed."""
        if x not in self.tried:
            cost = self.tried[x] = self.measure(x)
            self.report(math.exp(x), cost)
            tolerance = self.target.tolerance
            undecidable = abs(cost.drop - self.target.drop) <= tolerance < cost.half
            if undecidable or self.target.hit_by(cost):
                self.tried[x] = cost = self.measure_afresh(x, cost.draws)
                if self.target.hit_by(cost) or not self.target.surely_missed_by(cost):
                    self.found = self.calibration(x, cost)
        return 0.0 if self.found else math.log(max(self.tried[x].drop / self.target.drop, _LEAST))

    def measure(self, x: float, first: int = 0, wanted: int = FIRST_DRAWS) -> CleanCost:
        """Double the draws until the target is hit, or the drop is on one side of it beyond doubt."""
        draws, counts = 0, torch.zeros_like(self.undefended)
        while True:
            counts += self.times_right(math.exp(x), first + draws, wanted - draws)
            cost, draws = cost_of(self.undefended, counts, wanted), wanted
            if draws == self.target.max_draws or self.target.hit_by(cost) or self.target.surely_missed_by(cost):
                return cost
            wanted = min(2 * draws, self.target.max_draws)

    def measure_afresh(self, x: float, draws: int) -> CleanCost:
        cost = self.measure(x, self.unused, draws)
        self.unused += cost.draws
        return cost

    def bracket(self) -> tuple[float, float]:
        """Return two x between which the drop crosses the target; twice the same x if that is confirmed."""
        x, value = 0.0, self.excess(0.0)
        stride = min(_STRIDE, abs(value) / 2)  # exact if the drop grows with sigma squared
        while not self.found:
            following = x - math.copysign(stride, value)
            if abs(following) > _FARTHEST:
                raise self.unreachable("much" if value < 0 else "little")
            before, value = value, self.excess(following)
            if before * value < 0:
                return min(x, following), max(x, following)
            x, stride = following, _STRIDE
        return x, x

    def jump(self, root: float) -> Calibration:
        """Measure both sides of a jump of the drop afresh; return the one that hits, or else the cheaper one."""
        low, high = (
            min((x for x in self.tried if sign * self.excess(x) > 0), key=lambda x: abs(x - root)) for sign in (-1, 1)
        )
        draws = max(self.tried[low].draws, self.tried[high].draws)
        below, above = (self.measure_afresh(x, draws) for x in (low, high))
        if self.target.hit_by(above) and not self.target.hit_by(below):
            return self.calibration(high, above)
        if below.drop < self.target.drop < above.drop and all(map(self.target.surely_missed_by, (below, above))):
            note = f"the drop jumps over the target: {below} and, at a sigma 0.1 % larger, {above}"
            return Calibration(math.exp(low), below, note)
        return self.calibration(low, below)

    def calibration(self, x: float, cost: CleanCost) -> Calibration:
        unsure = f"{cost.draws} draws do not bring the drop within the tolerance"
        return Calibration(math.exp(x), cost, self.falling() if self.target.hit_by(cost) else unsure)

    def falling(self) -> str:
        """Return a line on a larger sigma that costs less, beyond what the draws explain."""
        for smaller, larger in itertools.combinations(sorted(self.tried), 2):
            less, more = self.tried[smaller], self.tried[larger]
            if less.drop - more.drop > _SURE * math.hypot(less.error, more.error):
                at = f"{less} at {math.exp(smaller):g} times the initial sigma, {more} at {math.exp(larger):g} times"
                return f"the drop is not monotone in sigma: {at}"
        return ""

    def unreachable(self, wanted: str) -> UserError:
        nearest = (max if wanted == "much" else min)(self.tried, key=lambda x: self.tried[x].drop)
        at = f"{self.tried[nearest]} at {math.exp(nearest):g} times the initial sigma"
        lines = (f"no sigma costs as {wanted} as {self.target.points}: {at}", self.falling())
        return UserError("; ".join(filter(None, lines)))


def calibrate_noise(
    meter: CleanCostMeter,
    noise: Noise,
    target: Target,
    report: Callable[[Sigma, CleanCost], None] = lambda sigma, cost: None,
) -> Calibration:
    """Set the sigma of a noise so that its drop is the target; several sigmas keep their ratios.

    Args:
        meter: Measures the drop.
        noise: Its sigma is the initial value of the search, and is replaced by the result.
        target: Target drop.
        report: Called with each sigma of the search and its cost.

    Raises:
        UserError: If no sigma reaches the target.
    """
    initial = noise.sigma

    def times_right(factor: float, first: int, draws: int) -> Tensor:
        noise.reconfigure(sigma=scaled(initial, factor))
        return meter.times_right(noise, first, draws)

    def report_sigma(factor: float, cost: CleanCost) -> None:
        report(scaled(initial, factor), cost)

    found = find_factor(times_right, meter.undefended, target, report_sigma)
    noise.reconfigure(sigma=scaled(initial, found.factor))
    return found


def rough_meter(victim: nn.Module, images: ImageSource, seed: int = 0) -> CleanCostMeter:
    """Return a meter of the clean cost on a random subset of at most `ROUGH_IMAGES` images."""
    count = min(ROUGH_IMAGES, len(images))
    return CleanCostMeter(victim, images.take(select(images.ids, images.labels.tolist(), count, "random", seed)), seed)


def calibrate_roughly(meter: CleanCostMeter, noise: Noise, drop: float) -> CleanCost | None:
    """Set the sigma of a noise so that it costs the drop within a quarter; return None if no sigma does.

    Insertion points must be compared at a measured cost: the sigma of the linearised victim can cost twenty times the
    drop. A victim that fails raises its VictimError.
    """
    try:
        return calibrate_noise(meter, noise, Target.rough(drop)).cost
    except VictimError:
        raise
    except UserError:
        return None


def scaled(sigma: Sigma, factor: float) -> Sigma:
    """Multiply a sigma by a factor and round it to five digits.

    Example:
        >>> scaled([1.0, 0.1234567], 2.0)
        [2.0, 0.24691]
    """
    if isinstance(sigma, list):
        return [float(f"{value * factor:.5g}") for value in sigma]
    return float(f"{sigma * factor:.5g}")


def cost_line(sigma: Sigma, cost: CleanCost) -> str:
    """Return one line on a measured cost."""
    return f"sigma {sigma_text(sigma)} costs {cost}, {cost.draws} draws"


def sigma_text(sigma: Sigma) -> str:
    """Return one sigma or several as text, as in 2/0.25."""
    return "/".join(f"{value:g}" for value in (sigma if isinstance(sigma, list) else [sigma]))

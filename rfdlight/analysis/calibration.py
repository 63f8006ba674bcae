"""Calibration: find the sigma at which noise costs a target drop of clean accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import nn

from rfdlight.analysis.clean_cost import CleanCost, CleanCostMeter, cost_of, fastest_device
from rfdlight.data.base import ImageData
from rfdlight.data.sources import ImageSource
from rfdlight.data.subset import select
from rfdlight.defenses.base import Defense
from rfdlight.defenses.noise import Noise
from rfdlight.engine.failures import VictimError
from rfdlight.errors import UserError, expect, kind_of
from rfdlight.evaluation.evaluate import Data, prepared

Sigma = float | list[float]
Report = Callable[[Sigma, CleanCost], None]
"""Receives each sigma of a search and its cost."""

FIRST_DRAWS = 4
ROUGH_IMAGES = 1000
_STRIDE = math.log(4.0)
_FARTHEST = 10.5 * _STRIDE
_NARROWEST = math.log(1.001)
_SURE = 4.0
"""Standard errors between a drop and the target that decide the side: a search compares too often for 1.96."""
_LEAST = 0.01
"""Share of the target below which the search does not distinguish drops, which may be negative."""


@dataclass(frozen=True)
class Calibration:
    """The cost at the calibrated sigma, from draws that the search has not used, and a line of warning, or ""."""

    cost: CleanCost
    note: str = ""


@dataclass(frozen=True)
class Target:
    """Target drop of the clean accuracy, in (0, 1).

    The tolerance is the accepted distance of the whole 95 % interval over draws; `max_draws` are per image and sigma.
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


def calibrate_noise(
    meter: CleanCostMeter, noise: Noise, target: Target, report: Report = lambda sigma, cost: None
) -> Calibration:
    """Set the sigma of a noise, the initial value of the search, so that its drop is the target.

    Brent's method finds the logarithm of a common factor of all sigmas, with the same random draws at each factor. The
    draws are doubled until the interval over draws lies within the tolerance, or the side of the target is certain. A
    drop that was selected for being near the target is biased, so fresh draws confirm it and are reported.
    """
    search = _Search(meter, noise, target, report)
    low, high = search.bracket()
    root = brentq(search.excess, low, high, xtol=_NARROWEST) if low < high else low
    return search.found or search.confirm(root, target.max_draws)


def calibrate(
    model: nn.Module | str,
    data: Data,
    defense: Noise,
    *,
    drop: float = 0.02,
    tolerance: float | None = None,
    max_draws: int = 64,
    seed: int = 0,
) -> Calibration:
    """Set the sigma of a noise so that it costs a target drop of clean accuracy.

    The clean accuracy is that of single predictions. `rfdlight calibrate` does the same on the command line.

    Args:
        model: The undefended network, or a name, as for `evaluate`.
        data: A data module, whose test images that `evaluate` does not attack are used, or tensors `(x, y)` or a loader
            of at least 2 images, which should not be those to attack.
        defense: A noise. Its sigma is the initial value of the search; several sigmas keep their ratios.
        drop: Target drop of the clean accuracy, as a share of the images, in (0, 1): 0.02 is 2 points.
        tolerance: Accepted distance from the target, with 95 % confidence over the draws; by default a tenth of it.
        max_draws: Predictions per image and sigma, at most.
        seed: Seed of the draws.

    Raises:
        UserError: If an argument is out of range, the model has a defense already, or no sigma has that cost.

    Example::

        noise = rfd.FeatureNoise(sigma=0.4, layers="layer*")
        print(rfd.calibrate("resnet8-digits", rfd.data.Digits(num_images=100), noise).cost, noise.sigma)
    """
    defense = checked_noise(defense)
    target = Target(drop, drop / 10 if tolerance is None else tolerance, max_draws)
    with prepared(model, data, (), fastest_device(), None) as subject:
        present = ", ".join(type(each).__name__ for each in subject.defenses)
        expect(not present, "model", "a network without a defense", present, "calibrate outside of its with block")
        images = data.held_out() if isinstance(data, ImageData) else subject.data.attacked()
        return calibrate_noise(CleanCostMeter(subject.victim, images, seed, subject.loaded.module), defense, target)


def checked_noise(defense: Defense) -> Noise:
    """Return a defense; raise a UserError unless it is a noise with a sigma from which a search can begin."""
    if not isinstance(defense, Noise):
        known = "feature_noise, input_noise or logit_noise"
        raise UserError(f"defense: expected a noise, got {kind_of(defense)}; its sigma is calibrated: use {known}")
    sigmas = defense.sigma if isinstance(defense.sigma, list) else [defense.sigma]
    expect(any(sigmas), "defense.sigma", "a positive number", "0", "it is the initial value of the search")
    return defense


class _Search:
    """Costs by the logarithm x of the factor of sigma; the search ends when `found` is set, with the noise at its x."""

    def __init__(self, meter: CleanCostMeter, noise: Noise, target: Target, report: Report) -> None:
        self.meter, self.noise, self.target, self.report = meter, noise, target, report
        self.initial = noise.sigma
        self.unused = target.max_draws  # number of the first draw that no decision has used
        self.tried: dict[float, CleanCost] = {}
        self.found: Calibration | None = None

    def excess(self, x: float) -> float:
        """Return log(drop / target), a straight line where the drop is a power of sigma; 0 if confirmed."""
        if x not in self.tried:
            cost = self.tried[x] = self.measure(x)
            self.report(self.noise.sigma, cost)
            undecidable = abs(cost.drop - self.target.drop) <= self.target.tolerance < cost.half
            if undecidable or self.target.hit_by(cost):
                confirmed = self.confirm(x, cost.draws)
                self.tried[x] = confirmed.cost
                if not (confirmed.note and self.target.surely_missed_by(confirmed.cost)):
                    self.found = confirmed
        return 0.0 if self.found else math.log(max(self.tried[x].drop / self.target.drop, _LEAST))

    def measure(self, x: float, first: int = 0, wanted: int = FIRST_DRAWS) -> CleanCost:
        """Double the draws until the target is hit, or the drop is on one side of it beyond doubt."""
        self.noise.reconfigure(sigma=scaled(self.initial, math.exp(x)))
        draws, counts = 0, torch.zeros_like(self.meter.undefended)
        while True:
            counts += self.meter.times_right(self.noise, first + draws, wanted - draws)
            cost, draws = cost_of(self.meter.undefended, counts, wanted), wanted
            if draws == self.target.max_draws or self.target.hit_by(cost) or self.target.surely_missed_by(cost):
                return cost
            wanted = min(2 * draws, self.target.max_draws)

    def confirm(self, x: float, draws: int) -> Calibration:
        """Measure with draws that no decision has used."""
        cost = self.measure(x, self.unused, draws)
        self.unused += cost.draws
        unsure = f"{cost.draws} draws do not bring the drop within the tolerance"
        return Calibration(cost, "" if self.target.hit_by(cost) else unsure)

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

    def unreachable(self, wanted: str) -> UserError:
        nearest = (max if wanted == "much" else min)(self.tried, key=lambda x: self.tried[x].drop)
        at = f"{self.tried[nearest]} at {math.exp(nearest):g} times the initial sigma"
        return UserError(f"no sigma costs as {wanted} as {self.target.points}: {at}")


def rough_meter(victim: nn.Module, images: ImageSource, seed: int = 0) -> CleanCostMeter:
    """Return a meter of the clean cost on a random subset of at most `ROUGH_IMAGES` images."""
    count = min(ROUGH_IMAGES, len(images))
    return CleanCostMeter(victim, images.take(select(images.ids, images.labels.tolist(), count, "random", seed)), seed)


def calibrate_roughly(meter: CleanCostMeter, noise: Noise, drop: float) -> CleanCost | None:
    """Set the sigma of a noise so that it costs the drop within a quarter; return None if no sigma does.

    A victim that fails raises its VictimError.
    """
    try:
        return calibrate_noise(meter, noise, Target.rough(drop)).cost
    except VictimError:
        raise
    except UserError:
        return None


def scaled(sigma: Sigma, factor: float) -> Sigma:
    """Multiply a sigma by a factor and round it to five digits."""
    if isinstance(sigma, list):
        return [float(f"{value * factor:.5g}") for value in sigma]
    return float(f"{sigma * factor:.5g}")


def cost_line(sigma: Sigma, cost: CleanCost) -> str:
    """Return one line on a measured cost."""
    return f"sigma {sigma_text(sigma)} costs {cost}, {cost.draws} draws"


def sigma_text(sigma: Sigma) -> str:
    """Return one sigma or several as text, as in 2/0.25."""
    return "/".join(f"{value:g}" for value in (sigma if isinstance(sigma, list) else [sigma]))

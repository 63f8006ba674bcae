"""The sigma of a noise, one or one per place, by what it costs."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rfdlight.analysis.calibration import FIRST_DRAWS, Calibration, Target, find_factor
from rfdlight.analysis.clean_cost import CleanCost, CleanCostMeter
from rfdlight.defenses.noise import Noise
from rfdlight.errors import UserError

Sigma = float | list[float]


def check_search(target_drop: float, tolerance: float, max_draws: int) -> None:
    """Refuse options that no search can follow.

    Raises:
        UserError: Names the option.
    """
    if not 0 < target_drop < 1:
        raise UserError(f"target_drop must lie in (0, 1), got {target_drop}; 0.02 is 2 points")
    if not 0 < tolerance < target_drop:
        raise UserError(f"tolerance must lie in (0, target_drop), got {tolerance}; 0.002 is 0.2 points")
    if max_draws < FIRST_DRAWS:
        raise UserError(f"max_draws must be at least {FIRST_DRAWS}, got {max_draws}")


def calibrate_noise(
    meter: CleanCostMeter,
    defense: Noise,
    target: Target,
    max_draws: int,
    tell: Callable[[Sigma, CleanCost], None] = lambda sigma, cost: None,
) -> Calibration:
    """Bring the sigma of a noise to where it costs the target; of several sigmas the ratios stay.

    Args:
        meter: Measures the cost.
        defense: Whose sigma is where the search begins, and gets what it finds.
        target: What the cost is to be.
        max_draws: At each sigma, at least `FIRST_DRAWS`.
        tell: Called with each sigma that is tried, and its cost.

    Raises:
        UserError: If no sigma within a factor of a million costs so much, or so little.
    """
    begin = defense.sigma

    def times_right(factor: float, first: int, draws: int) -> Tensor:
        defense.reconfigure(sigma=scaled(begin, factor))
        return meter.times_right(defense, first, draws)

    def told(factor: float, cost: CleanCost) -> None:
        tell(scaled(begin, factor), cost)

    found = find_factor(times_right, meter.undefended, target, max_draws, told)
    defense.reconfigure(sigma=scaled(begin, found.factor))
    return found


def scaled(sigma: Sigma, factor: float) -> Sigma:
    """Multiply, to five digits: a sigma is to be read, and nothing hangs on the sixth.

    Example:
        >>> scaled([1.0, 0.1234567], 2.0)
        [2.0, 0.24691]
    """
    if isinstance(sigma, list):
        return [float(f"{value * factor:.5g}") for value in sigma]
    return float(f"{sigma * factor:.5g}")


def shown(sigma: Sigma) -> str:
    """Return a sigma, or several, as text.

    Example:
        >>> shown([2.0, 0.25])
        '2/0.25'
    """
    return "/".join(f"{value:g}" for value in (sigma if isinstance(sigma, list) else [sigma]))

"""Noise at a measured cost, found roughly: near enough to compare places before one of them is calibrated."""

from __future__ import annotations

from torch import nn

from rfdlight.analysis.calibration import Target
from rfdlight.analysis.clean_cost import CleanCost, CleanCostMeter
from rfdlight.analysis.noise_calibration import calibrate_noise
from rfdlight.data.sources import ImageSource
from rfdlight.data.subset import select
from rfdlight.defenses.noise import Noise
from rfdlight.engine.failures import VictimError
from rfdlight.errors import UserError

MEASURED_ON = 1000
"""Images, at most, on which the cost of every place is measured: the same for all places."""

_TOLERANCE = 0.25
"""As a share of the drop."""

_MAX_DRAWS = 16


def rough_meter(victim: nn.Module, images: ImageSource, seed: int = 0) -> CleanCostMeter:
    """Return a meter of the clean cost on a random part of some images.

    Args:
        victim: In eval mode, without defenses.
        images: At least 2; of more than `MEASURED_ON` so many are chosen.
        seed: Of the choice and of the draws.
    """
    count = min(MEASURED_ON, len(images))
    return CleanCostMeter(victim, images.take(select(images.ids, images.labels.tolist(), count, "random", seed)), seed)


def bring_to(meter: CleanCostMeter, noise: Noise, drop: float) -> CleanCost | None:
    """Give a noise the sigma that costs the drop within a quarter of it, and return the cost; None if none does.

    The linearised victim alone would compare places at very different costs: the sigma that it finds for the
    pixels can cost twenty times the drop.

    Args:
        meter: Measures the cost.
        noise: Whose sigma is where the search begins, and gets what it finds; of several sigmas the ratios stay.
        drop: Of the clean accuracy, in (0, 1).

    Raises:
        VictimError: If the victim fails on the images.
    """
    try:
        return calibrate_noise(meter, noise, Target(drop, _TOLERANCE * drop), _MAX_DRAWS).cost
    except VictimError:
        raise
    except UserError:
        return None

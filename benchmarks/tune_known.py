"""Compares published attacks with their nearest neighbours; see benchmarks/tuning.py for networks and table.

Usage: RFDLIGHT_DATA=FOLDER python benchmarks/tune_known.py [--images 60] [--norm l2] [--only PATTERN]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tuning import main

from rfdlight.attacks import NES, NAttack
from rfdlight.attacks.base import Attack


def variants() -> dict[str, Callable[..., Attack]]:
    """Return attacks by name, each a function of the ball."""
    found: dict[str, Callable[..., Attack]] = {
        "nes": NES,
        "nes, sigma 0.01": partial(NES, sigma=0.01),
        "nattack": NAttack,
    }
    for population in (10, 20, 40):
        for sigma in (0.1, 0.2):
            for step in (0.02, 0.05, 0.1):
                options = {"population": population, "sigma": sigma, "step": step}
                title = f"nattack, population {population}, sigma {sigma}, step {step}"
                found[title] = partial(NAttack, **options)
    return found


if __name__ == "__main__":
    main(__doc__.partition("\n")[0], variants())

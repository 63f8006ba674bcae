"""Compares options of adaptive_nes and adaptive_square with other attacks; see benchmarks/tuning.py for the networks.

Usage: RFDLIGHT_DATA=FOLDER python benchmarks/tune_adaptive.py [--images 100] [--eps 0.05] [--only PATTERN]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tuning import main

from rfdlight.attacks import NES, AdaptiveNES, AdaptiveSquare, Bernoulli, SignHunt, Square
from rfdlight.attacks.base import Attack


def variants() -> dict[str, Callable[..., Attack]]:
    """Return attacks by name, each a function of the ball."""
    found: dict[str, Callable[..., Attack]] = {
        "square": Square,
        "square, schedule 10000": partial(Square, schedule_len=10000),
        "nes": NES,
        "nes, sigma 0.01": partial(NES, sigma=0.01),
        "signhunt": SignHunt,
        "bernoulli": Bernoulli,
        "bernoulli, grid 8, rate 0.8": partial(Bernoulli, grid=8, rate=0.8),
        "adaptive_nes": AdaptiveNES,
        "adaptive_nes, grid 2": partial(AdaptiveNES, grid=2),
        "adaptive_square": AdaptiveSquare,
    }
    for level, most in ((0.25, 2), (0.5, 4), (0.5, 16), (1.0, 8), (1.5, 16)):
        for clock in ("evaluations", "iterations"):
            form = partial(AdaptiveSquare, level=level, most=most, schedule_clock=clock)
            found[f"adaptive_square, level {level}, most {most}, {clock}"] = form
    for grid in (None, 8, 4, 2):
        for probes in ((0.2, 0.5), (0.5, 0.5), (0.2, 1.0), (1.0, 1.0), (2.0, 2.0)):
            form = type("Probes", (AdaptiveNES,), {"shortest": probes[0], "longest": probes[1]})
            for momentum in (0.0, 0.8, 0.9):
                for pairs in (1, 2, 4):
                    for step in (0.1, 0.2, 0.4):
                        name = f"grid {grid}, probes {probes}, momentum {momentum}, pairs {pairs}, step {step}"
                        options = {"grid": grid, "momentum": momentum, "pairs": pairs, "step": step}
                        found[f"adaptive_nes, {name}"] = partial(form, **options)
    return found


if __name__ == "__main__":
    main(__doc__.partition("\n")[0], variants())

"""Compares decision-based attacks, and their constants behind noise; see benchmarks/tuning.py for networks and table.

Usage: RFDLIGHT_DATA=FOLDER python benchmarks/tune_decision.py [--images 200] [--norm l2] [--only PATTERN]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tuning import main

from rfdlight.attacks import HSJA, BernoulliDecision, PopSkipJump, RandomNoise, RayS, SignFlip
from rfdlight.attacks.base import Attack


def variants() -> dict[str, Callable[..., Attack]]:
    """Return attacks by name, each a function of the ball."""
    found: dict[str, Callable[..., Attack]] = {
        "random_noise": RandomNoise,
        "bernoulli_decision": BernoulliDecision,
        "hsja": HSJA,
        "hsja, gap 0.001": partial(HSJA, gap=1e-3),
        "popskipjump": PopSkipJump,
    }
    for name, attack in {"rays": RayS, "signflip": SignFlip}.items():
        for lead in (1, 2, 3, 5, 8):
            found[f"{name}, lead {lead}"] = partial(attack, lead=lead)
    return found


if __name__ == "__main__":
    main(__doc__.partition("\n")[0], variants())

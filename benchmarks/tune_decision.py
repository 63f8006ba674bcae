"""Compares decision-based attacks, and their constants behind noise; see benchmarks/tuning.py for networks and table.

Usage: RFDLIGHT_DATA=FOLDER python benchmarks/tune_decision.py [--images 200] [--norm l2] [--only PATTERN]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tuning import main

from rfdlight.attacks import HSJA, OPT, BernoulliDecision, Boundary, PopSkipJump, RandomNoise, RayS, SignFlip, SignOPT
from rfdlight.attacks.base import Attack


def variants() -> dict[str, Callable[..., Attack]]:
    """Return attacks by name, each a function of the ball."""
    found: dict[str, Callable[..., Attack]] = {
        "random_noise": RandomNoise,
        "bernoulli_decision": BernoulliDecision,
        "hsja": HSJA,
        "hsja, gap 0.001": partial(HSJA, gap=1e-3),
        "popskipjump": PopSkipJump,
        "popskipjump, init_probes 100": partial(PopSkipJump, init_probes=100),
    }
    for name, attack in {"rays": RayS, "signflip": SignFlip}.items():
        for lead in (1, 2, 3, 5, 8):
            found[f"{name}, lead {lead}"] = partial(attack, lead=lead)
    for probes in (5, 10, 20, 40, 100):
        found[f"hsja, init_probes {probes}"] = partial(HSJA, init_probes=probes)
    for starting_points in (5, 10, 30, 100):
        for samples in (10, 20, 50, 200):
            options = {"starting_points": starting_points, "samples": samples}
            found[f"signopt, starting_points {starting_points}, samples {samples}"] = partial(SignOPT, **options)
        for samples in (5, 10):
            options = {"starting_points": starting_points, "samples": samples}
            found[f"opt, starting_points {starting_points}, samples {samples}"] = partial(OPT, **options)
    for step in (0.01, 0.03, 0.1, 0.3):
        options = {"spherical_step": step, "source_step": step}
        found[f"boundary, steps {step}"] = partial(Boundary, **options)
    return found


if __name__ == "__main__":
    main(__doc__.partition("\n")[0], variants())

"""Compares options of the published attacks, for defaults that depend on the image's size, the norm and the budget.

The names of the rows begin with the attack, so that `--only` selects one; see benchmarks/tuning.py for networks, table
and the other options. Usage: RFDLIGHT_DATA=FOLDER python benchmarks/tune_defaults.py --budgets --cells undefended
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tuning import main

from rfdlight import attacks
from rfdlight.attacks import NES, Bandits, RandomNoise, SimBA, Square, ZOSignSGD
from rfdlight.attacks.base import Attack


def in_eps(attack: Callable[..., Attack], share: float, **options: Any) -> Callable[..., Attack]:
    """Return a maker of an attack whose steps are a share of the radius."""

    def make(eps: float, **ball: Any) -> Attack:
        return attack(step=share * eps, eps=eps, **options, **ball)

    return make


def estimators(share: float) -> dict[str, Callable[..., Attack]]:
    """Return attacks that estimate the gradient, whose steps are a share of the radius."""
    found = {}
    for pairs in (5, 10, 20):
        for sigma in (0.01, 0.03, 0.1):
            found[f"nes step {share} pairs {pairs} sigma {sigma}"] = in_eps(NES, share, pairs=pairs, sigma=sigma)
    for samples in (5, 10, 15):
        for sigma in (0.01, 0.03):
            options = {"samples": samples, "sigma": sigma}
            found[f"zo_signsgd step {share} samples {samples} sigma {sigma}"] = in_eps(ZOSignSGD, share, **options)
    for side in (8, 16, 20, 32):
        for probe in (0.1, 0.5):
            options = {"prior_side": side, "probe": probe}
            found[f"bandits step {share} side {side} probe {probe}"] = in_eps(Bandits, share, **options)
    return found


def variants() -> dict[str, Callable[..., Attack]]:
    """Return attacks by name, each a function of the ball."""
    found: dict[str, Callable[..., Attack]] = {"random_noise": RandomNoise}
    for length in (None, 10000):
        for p in (0.05, 0.1, 0.2, 0.3, 0.5, 0.8):
            schedule = "" if length is None else f", schedule {length}"
            found[f"square, p {p}{schedule}"] = partial(Square, p=p, schedule_len=length)
    for share in (0.2, 0.5, 1.0):
        found |= estimators(share)
    for basis in ("pixel", "dct"):
        for share in (0.2, 0.4, 1, 2, 4, 8, 16, 32):
            found[f"simba {basis} step {share}"] = in_eps(SimBA, share, basis=basis)
    for name in ("Square", "NES", "ZOSignSGD", "Bandits", "SimBA"):
        found[f"default {name}"] = getattr(attacks, name)
    return found


if __name__ == "__main__":
    main(__doc__.partition("\n")[0], variants())

"""Compares published attacks with their nearest neighbours; see benchmarks/tuning.py for networks and table.

Usage: RFDLIGHT_DATA=FOLDER python benchmarks/tune_known.py [--images 60] [--norm l2] [--only PATTERN]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tuning import main

from rfdlight.attacks import HSJA, NES, OPT, Boundary, Evolutionary, NAttack, Parsimonious, SignHunt, SignOPT, Square
from rfdlight.attacks.base import Attack
from rfdlight.attacks.paper import AuthorsSignOPT


def variants() -> dict[str, Callable[..., Attack]]:
    """Return attacks by name, each a function of the ball; in l2, `--only` leaves out those of linf alone."""
    score: dict[str, Callable[..., Attack]] = {
        "nes": NES,
        "nes, sigma 0.01": partial(NES, sigma=0.01),
        "nattack": NAttack,
    }
    for population in (10, 20, 40):
        for sigma in (0.1, 0.2):
            for step in (0.02, 0.05, 0.1):
                options = {"population": population, "sigma": sigma, "step": step}
                title = f"nattack, population {population}, sigma {sigma}, step {step}"
                score[title] = partial(NAttack, **options)
    linf: dict[str, Callable[..., Attack]] = {"signhunt": SignHunt, "square": Square, "parsimonious": Parsimonious}
    linf |= {f"parsimonious, block {block}": partial(Parsimonious, block=block) for block in (2, 8)}
    l2: dict[str, Callable[..., Attack]] = {
        "boundary": Boundary,
        "hsja": partial(HSJA, init_probes=100),
        "evolutionary": Evolutionary,
    }
    for grid in (8, 16, 32):
        for mu, window in ((0.01, 30), (0.1, 5), (0.1, 10), (0.03, 10)):
            options = {"grid": grid, "mu": mu, "window": window}
            l2[f"evolutionary, grid {grid}, mu {mu}, window {window}"] = partial(Evolutionary, **options)
    descent: dict[str, Callable[..., Attack]] = {}
    for starting_points in (20, 100):
        for samples in (50, 200):
            title = f"signopt, {starting_points} starts, {samples} samples"
            descent[title] = partial(SignOPT, starting_points, samples)
        descent[f"opt, {starting_points} starts"] = partial(OPT, starting_points=starting_points)
    descent["signopt, authors"] = partial(AuthorsSignOPT, 100, 200)
    return score | linf | l2 | descent


if __name__ == "__main__":
    main(__doc__.partition("\n")[0], variants())

"""The published code of the attacks: its steps, query counting and success reports where these differ from ours.

The paper is Nguyen et al., Understanding the Robustness of Randomized Feature Defense Against Query-Based Adversarial
Attacks, ICLR 2024. Its code is that of the attacks' authors with changes of its own.
"""

from __future__ import annotations

from typing import Any

from rfdlight import attacks
from rfdlight.attacks.base import Attack
from rfdlight.attacks.paper import query_counting
from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.attacks.paper.geoda import PaperGeoDA
from rfdlight.attacks.paper.gradient_estimation import PaperBandits, PaperNES
from rfdlight.attacks.paper.rays import PaperRayS
from rfdlight.attacks.paper.signhunt import PaperSignHunt
from rfdlight.attacks.paper.signopt import PaperSignOPT
from rfdlight.attacks.paper.square import PaperSquare
from rfdlight.attacks.paper.zo_signsgd import PaperZOSignSGD

BEHAVIOURS: dict[type[Attack], type[PaperBehaviour[Any]]] = {
    attacks.Bandits: PaperBandits,
    attacks.Boundary: query_counting.PaperBoundary,
    attacks.GeoDA: PaperGeoDA,
    attacks.HSJA: query_counting.PaperHSJA,
    attacks.NES: PaperNES,
    attacks.RandomNoise: query_counting.PaperRandomNoise,
    attacks.RayS: PaperRayS,
    attacks.SignFlip: query_counting.PaperSignFlip,
    attacks.SignHunt: PaperSignHunt,
    attacks.SignOPT: PaperSignOPT,
    attacks.SimBA: query_counting.PaperSimBA,
    attacks.Square: PaperSquare,
    attacks.ZOSignSGD: PaperZOSignSGD,
}
"""By attack; subclasses have that of their attack, and all others the defaults of the base class."""


def _class_for(attack: Attack) -> type[PaperBehaviour[Any]]:
    return next((BEHAVIOURS[base] for base in type(attack).__mro__ if base in BEHAVIOURS), PaperBehaviour)


def paper_behaviour(attack: Attack) -> PaperBehaviour[Any]:
    """Return the behaviour of the published code for an attack that the engine configured."""
    return _class_for(attack)(attack)


def with_published_steps(attack: Attack) -> Attack:
    """Return a copy of an attack that takes the steps of its published code, or the attack if it takes them already."""
    steps = _class_for(attack).steps
    return attack if steps is None or isinstance(attack, steps) else attack.extended_by(steps)

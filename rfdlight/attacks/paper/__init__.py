"""The published code of the attacks: its steps, query counting and success reports where these differ from ours.

The paper is Nguyen et al., Understanding the Robustness of Randomized Feature Defense Against Query-Based Adversarial
Attacks, ICLR 2024. Its code is that of the attacks' authors with changes of its own.
"""

from __future__ import annotations

from typing import Any

from rfdlight.attacks.bandits import Bandits
from rfdlight.attacks.base import Attack
from rfdlight.attacks.boundary import Boundary
from rfdlight.attacks.geoda import GeoDA
from rfdlight.attacks.hsja import HSJA
from rfdlight.attacks.nes import NES
from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.attacks.paper.boundary import PaperBoundary
from rfdlight.attacks.paper.geoda import PaperGeoDA
from rfdlight.attacks.paper.gradient_estimation import PaperBandits, PaperNES
from rfdlight.attacks.paper.hsja import PaperHSJA
from rfdlight.attacks.paper.random_noise import PaperRandomNoise
from rfdlight.attacks.paper.rays import PaperRayS
from rfdlight.attacks.paper.signflip import PaperSignFlip
from rfdlight.attacks.paper.signhunt import PaperSignHunt
from rfdlight.attacks.paper.signopt import PaperSignOPT
from rfdlight.attacks.paper.simba import PaperSimBA
from rfdlight.attacks.paper.square import PaperSquare
from rfdlight.attacks.paper.zo_signsgd import PaperZOSignSGD
from rfdlight.attacks.random_noise import RandomNoise
from rfdlight.attacks.rays import RayS
from rfdlight.attacks.signflip import SignFlip
from rfdlight.attacks.signhunt import SignHunt
from rfdlight.attacks.signopt import SignOPT
from rfdlight.attacks.simba import SimBA
from rfdlight.attacks.square import Square
from rfdlight.attacks.zo_signsgd import ZOSignSGD

BEHAVIOURS: dict[type[Attack], type[PaperBehaviour[Any]]] = {
    Bandits: PaperBandits,
    Boundary: PaperBoundary,
    GeoDA: PaperGeoDA,
    HSJA: PaperHSJA,
    NES: PaperNES,
    RandomNoise: PaperRandomNoise,
    RayS: PaperRayS,
    SignFlip: PaperSignFlip,
    SignHunt: PaperSignHunt,
    SignOPT: PaperSignOPT,
    SimBA: PaperSimBA,
    Square: PaperSquare,
    ZOSignSGD: PaperZOSignSGD,
}
"""By attack, for its subclasses too. Other attacks may add their own; without, they have the defaults of the base."""


def _class_for(attack: Attack) -> type[PaperBehaviour[Any]]:
    return next((BEHAVIOURS[base] for base in type(attack).__mro__ if base in BEHAVIOURS), PaperBehaviour)


def paper_behaviour(attack: Attack) -> PaperBehaviour[Any]:
    """Return the behaviour of the published code for an attack that the engine configured."""
    return _class_for(attack)(attack)


def with_published_steps(attack: Attack) -> Attack:
    """Return a copy of an attack that takes the steps of its published code; the attack itself if these are the same."""
    steps = _class_for(attack).steps
    if steps is None or isinstance(attack, steps):
        return attack
    # A subclass of the attack keeps what it changes besides the published steps.
    plain = type(attack) in steps.__bases__
    form: type[Attack] = steps if plain else type(steps.__name__, (steps, type(attack)), {})
    copied: Attack = object.__new__(form)
    vars(copied).update(vars(attack))
    return copied

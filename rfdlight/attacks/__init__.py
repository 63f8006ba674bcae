"""Query-based attacks: black-box (score-based and decision-based) and white-box."""

from rfdlight.attacks.adaptive_nes import AdaptiveNES
from rfdlight.attacks.adaptive_square import AdaptiveSquare
from rfdlight.attacks.bandits import Bandits
from rfdlight.attacks.base import Attack
from rfdlight.attacks.bernoulli import Bernoulli
from rfdlight.attacks.bernoulli_decision import BernoulliDecision
from rfdlight.attacks.bernoulli_multiscale import BernoulliMultiscale
from rfdlight.attacks.boundary import Boundary
from rfdlight.attacks.evolutionary import Evolutionary
from rfdlight.attacks.fgsm import FGSM
from rfdlight.attacks.geoda import GeoDA
from rfdlight.attacks.hsja import HSJA
from rfdlight.attacks.nattack import NAttack
from rfdlight.attacks.nes import NES
from rfdlight.attacks.opt import OPT
from rfdlight.attacks.parsimonious import Parsimonious
from rfdlight.attacks.pgd import PGD
from rfdlight.attacks.popskipjump import PopSkipJump
from rfdlight.attacks.prgf import PRGF
from rfdlight.attacks.random_noise import RandomNoise
from rfdlight.attacks.rays import RayS
from rfdlight.attacks.signflip import SignFlip
from rfdlight.attacks.signhunt import SignHunt
from rfdlight.attacks.signopt import SignOPT
from rfdlight.attacks.simba import SimBA
from rfdlight.attacks.square import Square
from rfdlight.attacks.transfer import Transfer
from rfdlight.attacks.zo_signsgd import ZOSignSGD

__all__ = [
    "FGSM",
    "HSJA",
    "NES",
    "OPT",
    "PGD",
    "PRGF",
    "AdaptiveNES",
    "AdaptiveSquare",
    "Attack",
    "Bandits",
    "Bernoulli",
    "BernoulliDecision",
    "BernoulliMultiscale",
    "Boundary",
    "Evolutionary",
    "GeoDA",
    "NAttack",
    "Parsimonious",
    "PopSkipJump",
    "RandomNoise",
    "RayS",
    "SignFlip",
    "SignHunt",
    "SignOPT",
    "SimBA",
    "Square",
    "Transfer",
    "ZOSignSGD",
]

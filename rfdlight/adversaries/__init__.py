"""Adversarial training: each adversary chooses the inputs that a training step learns from."""

from rfdlight.adversaries.base import Adversary
from rfdlight.adversaries.fgsm import FGSMAdversary
from rfdlight.adversaries.pgd import PGDAdversary
from rfdlight.adversaries.trades import TRADESAdversary

__all__ = ["Adversary", "FGSMAdversary", "PGDAdversary", "TRADESAdversary"]

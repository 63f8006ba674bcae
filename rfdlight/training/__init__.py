"""Training of victims: the `Classifier` and the adversaries of adversarial training."""

from rfdlight.training.adversary import Adversary
from rfdlight.training.fgsm import FGSMAdversary
from rfdlight.training.pgd import PGDAdversary
from rfdlight.training.trades import TRADESAdversary

__all__ = ["Adversary", "FGSMAdversary", "PGDAdversary", "TRADESAdversary"]

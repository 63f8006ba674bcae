"""Training of victims: the `Classifier` and the adversaries of adversarial training."""

from rfdlight.training.adversary import Adversary, FGSMAdversary, PGDAdversary, TRADESAdversary

__all__ = ["Adversary", "FGSMAdversary", "PGDAdversary", "TRADESAdversary"]

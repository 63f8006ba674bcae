"""Adversarial training by projected gradient descent."""

from __future__ import annotations

from torch import Tensor, nn

from rfdlight.attacks.pgd import PGD
from rfdlight.core.norms import Norm
from rfdlight.training.adversary import Adversary, Criterion, attacked


class PGDAdversary(Adversary):
    """Trains on the last points of projected gradient descent alone.

    Source: Madry, Makelov, Schmidt, Tsipras, Vladu, Towards Deep Learning Models Resistant to Adversarial
    Attacks, ICLR 2018, section 5; 7 steps of 2/255 on CIFAR-10. As in their code, the attack differentiates
    through the victim in training mode.

    Args:
        eps: Radius in pixel units, > 0.
        steps: Of the attack, >= 1.
        step: Their length in pixel units.
        norm: "linf" or "l2".
    """

    def __init__(self, eps: float = 8 / 255, steps: int = 7, step: float = 2 / 255, norm: Norm = "linf") -> None:
        super().__init__(eps, norm)
        self.attack = PGD(steps=steps, step=step, eps=eps, norm=norm)

    def loss(self, victim: nn.Module, x: Tensor, y: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor]:
        logits = victim(attacked(victim, self.attack, x, y))
        return criterion(logits, y), logits

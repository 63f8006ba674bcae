"""Fast adversarial training, by single steps."""

from __future__ import annotations

from torch import Tensor, nn

from rfdlight.attacks.fgsm import FGSM
from rfdlight.core.norms import Norm
from rfdlight.training.adversary import Adversary, Criterion, attacked


class FGSMAdversary(Adversary):
    """Trains on single steps from random starts alone: fast adversarial training.

    Source: Wong, Rice, Kolter, Fast is Better than Free: Revisiting Adversarial Training, ICLR 2020, section
    4.1. As in their code, the attack differentiates through the victim in training mode. It can fail at once, from
    one epoch to the next ("catastrophic overfitting", their section 5.4): hold out images with
    `--data.validation` and the training says so.

    Args:
        eps: Radius in pixel units, > 0.
        step: Length of the step in pixel units; by default 1.25 eps.
        norm: "linf" or "l2".
    """

    def __init__(self, eps: float = 8 / 255, step: float | None = None, norm: Norm = "linf") -> None:
        super().__init__(eps, norm)
        self.attack = FGSM(step=step, random_start=True, eps=eps, norm=norm)

    def loss(self, victim: nn.Module, x: Tensor, y: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor]:
        logits = victim(attacked(victim, self.attack, x, y))
        return criterion(logits, y), logits

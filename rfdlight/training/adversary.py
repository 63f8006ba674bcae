"""Adversaries of adversarial training, and the check for catastrophic overfitting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from rfdlight.attacks.base import check_count, check_positive
from rfdlight.attacks.fgsm import FGSM
from rfdlight.attacks.pgd import PGD, perturb
from rfdlight.core.balls import Norm, check_eps
from rfdlight.core.threat import ThreatModel

Criterion = Callable[[Tensor, Tensor], Tensor]
"""From logits (rows, classes) and labels (rows,) to the mean loss."""


class Adversary(ABC):
    """Chooses the inputs of a training step by white-box attack.

    Args:
        eps: Radius of its ball in pixel units, > 0.
        norm: "linf" or "l2".

    Raises:
        UserError: If `eps` is not positive, or in linf not below 1.
    """

    def __init__(self, eps: float, norm: Norm) -> None:
        check_eps(eps, norm, "model.adversary.eps")
        self.threat = ThreatModel(norm, eps)

    @abstractmethod
    def loss(self, victim: nn.Module, x: Tensor, y: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """Return the loss of a training step and the logits at the attacked images, (rows, classes).

        Args:
            victim: In training mode, and left so.
            x: (rows, C, H, W) in [0, 1].
            y: (rows,) int64.
            criterion: Of clean training.
        """


class PGDAdversary(Adversary):
    """Trains on the last points of projected gradient descent alone.

    Source: Madry, Makelov, Schmidt, Tsipras, Vladu, Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR
    2018, section 5; 7 steps of 2/255 on CIFAR-10. As in their code, the attack differentiates through the victim in
    training mode.

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


class FGSMAdversary(PGDAdversary):
    """Trains on single steps from random starts alone: fast adversarial training.

    Source: Wong, Rice, Kolter, Fast is Better than Free: Revisiting Adversarial Training, ICLR 2020, section 4.1. As in
    their code, the attack differentiates through the victim in training mode. It can fail from one epoch to the next,
    which the training reports on images held out with `--data.validation`: see `CatastrophicOverfitting`.

    Args:
        eps: Radius in pixel units, > 0.
        step: Length of the step in pixel units; by default 1.25 eps.
        norm: "linf" or "l2".
    """

    def __init__(self, eps: float = 8 / 255, step: float | None = None, norm: Norm = "linf") -> None:
        super().__init__(eps, norm=norm)
        self.attack = FGSM(step=step, random_start=True, eps=eps, norm=norm)


class TRADESAdversary(Adversary):
    """Trains on clean images, and for predictions that stay the same inside the ball.

    The loss is the clean one plus `beta` times the divergence KL(p(x) || p(x')), x' the point that maximises it.

    Source: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, Theoretically Principled Trade-off between Robustness and
    Accuracy, ICML 2019, section 4 and algorithm 1. As in their code, the attack starts within normal noise of 0.001,
    and differentiates through the victim in evaluation mode.

    Args:
        eps: Radius in pixel units, > 0.
        steps: Of the attack, >= 1.
        step: Their length in pixel units, > 0.
        beta: Weight of the divergence, > 0.
    """

    def __init__(self, eps: float = 8 / 255, steps: int = 10, step: float = 0.007, beta: float = 6.0) -> None:
        super().__init__(eps, "linf")
        check_count(steps=steps)
        check_positive(step=step, beta=beta)
        self.steps = steps
        self.step = step
        self.beta = beta

    def loss(self, victim: nn.Module, x: Tensor, y: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor]:
        victim.eval()
        with torch.no_grad():
            clean = victim(x).softmax(1)
        uphill = input_gradient(victim, lambda logits: _divergence(clean, logits) * len(x))
        points = x + 0.001 * torch.randn_like(x)
        for _ in range(self.steps):
            points = self.threat.project(x, points + self.step * uphill(points).sign())
        victim.train()
        logits, attacked_logits = victim(x), victim(points)
        return criterion(logits, y) + self.beta * _divergence(logits.softmax(1), attacked_logits), attacked_logits


def _divergence(p: Tensor, logits: Tensor) -> Tensor:
    return kl_div(logits.log_softmax(1), p, reduction="batchmean")


def attacked(victim: nn.Module, attack: PGD, x: Tensor, y: Tensor) -> Tensor:
    """Return the last points of an attack on `victim`, in its present mode."""
    seed = torch.randint(2**62, (len(x),), device=x.device)
    downhill = input_gradient(victim, lambda logits: -cross_entropy(logits, y, reduction="sum"))
    return perturb(attack, downhill, x, y, seed)


def input_gradient(victim: nn.Module, objective: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the function from points, like images, to the gradient of `objective`, a sum over their logits."""

    def gradient(points: Tensor) -> Tensor:
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            # Of the points alone: the weights' gradients are neither computed nor kept.
            return torch.autograd.grad(objective(victim(points).float()), points)[0]

    return gradient


class CatastrophicOverfitting:
    """Detects a collapse of fast adversarial training: accuracy under PGD falls towards 0, under FGSM it does not.

    The report comes once, at the first epoch whose PGD accuracy is below half of its best, with an FGSM accuracy not
    below that of the best epoch.

    Source: Wong, Rice, Kolter, Fast is Better than Free, ICLR 2020, section 5.4. Deviation: the thresholds are ours.
    """

    def __init__(self) -> None:
        self.best = (0.0, 0.0)
        self.reported = False

    def update(self, fgsm: float, pgd: float) -> str | None:
        """Take the accuracies of an epoch, in [0, 1]; return one line if the training has just failed."""
        best_pgd, best_fgsm = self.best
        if pgd >= best_pgd:
            self.best = (pgd, fgsm)
        if self.reported or pgd >= best_pgd / 2 or fgsm < best_fgsm:
            return None
        self.reported = True
        return f"catastrophic overfitting: accuracy {pgd:.1%} under PGD (best {best_pgd:.1%}), {fgsm:.1%} under FGSM"

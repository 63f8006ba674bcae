"""Base class of the adversaries of adversarial training, and input gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rfdlight.attacks.pgd import PGD, perturb
from rfdlight.core.norms import Norm
from rfdlight.core.threat import ThreatModel, check_eps

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


def attacked(victim: nn.Module, attack: PGD, x: Tensor, y: Tensor) -> Tensor:
    """Return the last points of an attack on `victim`, in the mode that it is in."""
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

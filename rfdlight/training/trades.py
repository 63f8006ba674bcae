"""Adversarial training for answers that stay the same, beside clean training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from rfdlight.attacks.base import check_count, check_positive
from rfdlight.training.adversary import Adversary, Criterion, input_gradient


class TRADESAdversary(Adversary):
    """Trains on clean images, and for answers that stay the same inside the ball.

    The loss is the clean one plus `beta` times the divergence KL(p(x) || p(x')), x' the point that
    maximises it.

    Source: Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, Theoretically Principled Trade-off between Robustness and
    Accuracy, ICML 2019, section 4 and algorithm 1. As in their code, the attack starts within normal noise of
    0.001, and differentiates through the victim in evaluation mode.

    Args:
        eps: Radius in pixel units, > 0.
        steps: Of the attack, >= 1.
        step: Their length in pixel units, > 0.
        beta: Weight of the divergence, > 0.

    Raises:
        UserError: If a number is out of range.
    """

    def __init__(self, eps: float = 8 / 255, steps: int = 10, step: float = 0.007, beta: float = 6.0) -> None:
        super().__init__(eps, "linf")
        check_count(steps=steps)
        check_positive(step=step, beta=beta)
        self.steps = steps
        self.step = step
        self.beta = beta

    def loss(self, victim: nn.Module, x: Tensor, y: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor]:
        with _evaluating(victim):
            with torch.no_grad():
                clean = victim(x).softmax(1)
            uphill = input_gradient(victim, lambda logits: _divergence(clean, logits) * len(x))
            points = x + 0.001 * torch.randn_like(x)
            for _ in range(self.steps):
                points = self.threat.project(x, points + self.step * uphill(points).sign())
        logits, attacked_logits = victim(x), victim(points)
        return criterion(logits, y) + self.beta * _divergence(logits.softmax(1), attacked_logits), attacked_logits


def _divergence(p: Tensor, logits: Tensor) -> Tensor:
    return kl_div(logits.log_softmax(1), p, reduction="batchmean")


@contextmanager
def _evaluating(victim: nn.Module) -> Iterator[None]:
    victim.eval()
    try:
        yield
    finally:
        victim.train()

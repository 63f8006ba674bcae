"""Losses of the attacker, one value per row."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Loss = Literal["margin", "cross_entropy"]


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the logit of the label less the largest other one; it is negative where the answer is wrong.

    Args:
        logits: (rows, classes).
        y: (rows,) int64.

    Returns:
        (rows,) in the dtype of `logits`.

    Example:
        >>> margin(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1]))
        tensor([1.])
    """
    label = y[:, None]
    others = logits.scatter(1, label, -torch.inf)
    return logits.gather(1, label).squeeze(1) - others.amax(1)


def attacker_loss(logits: Tensor, y: Tensor, target: Tensor, which: Loss = "margin") -> Tensor:
    """Return what an attacker lowers: the more negative, the nearer to its goal.

    Args:
        logits: (rows, classes).
        y: (rows,) int64, the labels.
        target: (rows,) int64, the class to be reached, or -1 where any class but the label will do.
        which: "margin": the label's margin, or the target's with its sign changed, negative exactly at the
            goal. "cross_entropy": the log-probability of the label, or that of the target with its sign changed.

    Returns:
        (rows,) in the dtype of `logits`.

    Example:
        >>> attacker_loss(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1]), torch.tensor([2]))
        tensor([1.])
    """
    targeted = target >= 0
    of = torch.where(targeted, target, y)
    score = margin(logits, of) if which == "margin" else logits.log_softmax(1).gather(1, of[:, None]).squeeze(1)
    return torch.where(targeted, -score, score)

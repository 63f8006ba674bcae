"""Losses of the attacker, one value per row."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Loss = Literal["margin", "cross_entropy"]


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the logit of the label less the largest other one, (rows,); it is negative where the answer is wrong.

    Example:
        >>> margin(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1]))
        tensor([1.])
    """
    label = y[:, None]
    others = logits.scatter(1, label, -torch.inf)
    return logits.gather(1, label).squeeze(1) - others.amax(1)


def attacker_loss(logits: Tensor, y: Tensor, target: Tensor | None, which: Loss = "margin") -> Tensor:
    """Return the loss that an attacker lowers, (rows,), from logits (rows, classes) and labels (rows,).

    Where the target is -1, and everywhere without targets: the label's margin, or its log-probability for
    "cross_entropy". Else the target's, with the sign changed. The margin is negative exactly where the attacker has
    reached its goal.

    Example:
        >>> attacker_loss(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1]), torch.tensor([2]))
        tensor([1.])
    """
    if target is None:
        return _score(logits, y, which)
    targeted = target >= 0
    score = _score(logits, torch.where(targeted, target, y), which)
    return torch.where(targeted, -score, score)


def _score(logits: Tensor, of: Tensor, which: Loss) -> Tensor:
    return margin(logits, of) if which == "margin" else logits.log_softmax(1).gather(1, of[:, None]).squeeze(1)

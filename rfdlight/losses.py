"""Losses of the attacker, one value per row."""

from __future__ import annotations

import torch
from torch import Tensor


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

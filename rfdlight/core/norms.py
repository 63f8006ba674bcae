"""Norms of perturbations and projections onto their balls, one row at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.core.balls import Norm
from rfdlight.core.tensors import per_row


def norm(delta: Tensor, which: Norm) -> Tensor:
    """Return the norm of each row, (rows,).

    Example:
        >>> norm(torch.tensor([[3.0, -4.0]]), "linf"), norm(torch.tensor([[3.0, -4.0]]), "l2")
        (tensor([4.]), tensor([5.]))
    """
    rows = delta.flatten(1)
    return rows.abs().amax(1) if which == "linf" else torch.linalg.vector_norm(rows, dim=1)


def project(delta: Tensor, which: Norm, eps: float) -> Tensor:
    """Return the nearest perturbation of norm at most `eps`, row by row."""
    if which == "linf":
        return delta.clamp(-eps, eps)
    length = norm(delta, "l2")
    return delta * per_row((eps / length.clamp_min(1e-12)).clamp_max(1.0), delta)

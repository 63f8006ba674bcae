"""Targets and starting points of targeted attacks."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core import rng
from rfdlight.core.tensors import Columns

_TARGETS = 2**20
"""Stream of random numbers for targets and starting points; attacks number their streams from 0."""


def draw_targets(
    attack: Attack, y: Tensor, seed: Tensor, classes: int, starting_points: tuple[Tensor, Tensor] | None = None
) -> Columns:
    """Draw each image's target, -1 in an untargeted attack, and its starting point if the attack needs one.

    `y` and `seed` are (rows,) int64; starting points are images (images, C, H, W) and their classes (images,).
    """
    if not attack.targeted:
        return {"target": torch.full_like(y, -1)}
    draws = rng.uniform(seed, _TARGETS, torch.zeros_like(y), 2)
    other = (draws[:, 0] * (classes - 1)).long()
    target = other + (other >= y)
    if not attack.needs_starting_point:
        return {"target": target}
    if starting_points is None:
        raise ValueError(f"starting_points: expected images for a targeted {type(attack).__name__}, got none")
    images, known = starting_points
    fitting = (known == target[:, None]).double()  # (rows, images)
    chosen = (fitting.cumsum(1) > draws[:, 1:] * fitting.sum(1, keepdim=True)).long().argmax(1)
    return {"target": target, "start": images[chosen]}

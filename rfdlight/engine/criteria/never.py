"""Success criterion "never": every attack spends its whole budget."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.engine.criteria.base import Queries, SuccessCriterion
from rfdlight.engine.state import ImageState


class NeverCriterion(SuccessCriterion):
    """Counts no image as adversarial before its final evaluations."""

    def candidates(self, queries: Queries, images: ImageState) -> Tensor:
        return torch.zeros_like(queries.adversarial)

    def first_evaluations(self, attack: Attack) -> int:
        return 0

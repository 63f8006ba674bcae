"""Success criterion "never": every attack spends its whole budget."""

from __future__ import annotations

from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.engine.criteria.base import Queries, SuccessCriterion
from rfdlight.engine.state import ImageState


class NeverCriterion(SuccessCriterion):
    """Counts no image as adversarial before its final evaluations."""

    def candidates(self, queries: Queries, images: ImageState) -> Tensor:
        return queries.rows[:0]

    def first_evaluations(self, attack: Attack) -> int:
        return 0

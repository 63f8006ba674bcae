"""Success criterion of a victim that answers equal images equally: one evaluation decides."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.engine.criteria.base import Queries, SuccessCriterion
from rfdlight.engine.state import ImageState


class OneEvaluation(SuccessCriterion):
    """Replaces the evaluations that another criterion wants by one, and keeps that criterion's candidates.

    Args:
        criterion: The other criterion.
    """

    def __init__(self, criterion: SuccessCriterion) -> None:
        super().__init__(1)
        self._criterion = criterion

    def open(self, y: Tensor) -> Any:
        return self._criterion.open(y)

    def candidates(self, queries: Queries, images: ImageState) -> Tensor:
        return self._criterion.candidates(queries, images)

    def points(self, candidates: Queries) -> Tensor | None:
        return self._criterion.points(candidates)

    def first_evaluations(self, attack: Attack) -> int:
        return min(1, self._criterion.first_evaluations(attack))

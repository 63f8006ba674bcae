"""Success criterion "single": one adversarial answer to a query."""

from __future__ import annotations

from rfdlight.attacks.base import Attack
from rfdlight.engine.criteria.base import SuccessCriterion


class SingleCriterion(SuccessCriterion):
    """Counts an image as adversarial at its first candidate, without fresh evaluations."""

    def first_evaluations(self, attack: Attack) -> int:
        return 0

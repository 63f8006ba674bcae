"""Success criterion "paper": the success that the attack reports, as in the paper's code."""

from __future__ import annotations

from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.attacks.paper import paper_behaviour
from rfdlight.engine.criteria.base import MAJORITY, Conclusion, Queries, SuccessCriterion, count_votes
from rfdlight.engine.state import ImageState
from rfdlight.errors import UserError


class PaperCriterion(SuccessCriterion):
    """Trusts the success that a decision-based attack reports, and confirms that of other attacks by 9 votes."""

    def check(self, attack: Attack) -> None:
        if attack.access == "gradient":
            raise UserError("model.criterion paper has no rule for attacks that read gradients; leave it at sequential")

    def candidates(self, queries: Queries, images: ImageState) -> Tensor:
        return paper_behaviour(queries.attack).reports_success(queries.state, queries.adversarial_answer)

    def points(self, candidates: Queries) -> Tensor:
        return candidates.attack.best(candidates.state)

    def first_evaluations(self, attack: Attack) -> int:
        return MAJORITY if paper_behaviour(attack).confirmed_by_votes else 0

    def conclude(self, images: ImageState, rows: Tensor) -> Conclusion:
        return count_votes(images, rows)

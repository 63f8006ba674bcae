"""A success criterion of one's own: at least 8 of 10 fresh evaluations.

rfdlight test --attack rays --model.criterion my_criterion.EightOfTen
"""

import torch
from torch import Tensor

from rfdlight.attacks import Attack
from rfdlight.engine.criteria import Conclusion, SuccessCriterion
from rfdlight.engine.state import ImageState


class EightOfTen(SuccessCriterion):
    """Counts an image as adversarial if at least 8 of 10 fresh evaluations of a candidate are adversarial."""

    def first_evaluations(self, attack: Attack) -> int:
        return 3

    def conclude(self, images: ImageState, rows: Tensor) -> Conclusion:
        adversarial, count = images.evaluations.adversarial[rows], images.evaluations.count[rows]
        rejected = count - adversarial > 2
        more = torch.where(rejected, 0, 10 - count)
        return Conclusion(more, (adversarial >= 8) & ~rejected)

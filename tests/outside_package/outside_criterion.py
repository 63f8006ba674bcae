"""A success criterion in a package of its own: three adversarial evaluations in a row."""

import torch
from torch import Tensor

from rfdlight.attacks import Attack
from rfdlight.engine.criteria import Conclusion, SuccessCriterion
from rfdlight.engine.state import ImageState


class ThreeInARow(SuccessCriterion):
    """Counts an image as adversarial if three consecutive fresh evaluations of a candidate are adversarial."""

    def first_evaluations(self, attack: Attack) -> int:
        return 1

    def conclude(self, images: ImageState, rows: Tensor) -> Conclusion:
        adversarial, count = images.evaluations.adversarial[rows], images.evaluations.count[rows]
        unbroken = adversarial == count
        return Conclusion(torch.where(unbroken & (count < 3), 1, 0), unbroken)

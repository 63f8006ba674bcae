"""Square Attack as its published code counts queries."""

import torch
from torch import Tensor

from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.attacks.square import Square
from rfdlight.core.tensors import Columns


class PublishedSquare(Square):
    """Square Attack whose schedule counts iterations."""

    default_clock = "iterations"


class PaperSquare(PaperBehaviour[Square]):
    """Does not bill the first query, and makes a fixed number of iterations, in l2 one more."""

    steps = PublishedSquare

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        return self.without_first(evaluated)

    def ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        iterations = (state["budget"] // self.attack.eot).clamp_min(1) + (self.attack.norm == "l2")
        return state["step"] >= torch.where(state["budget"] > 0, iterations, 0)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return adversarial & state["kept"]

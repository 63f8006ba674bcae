"""The Sign-OPT attack."""

from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.direction_descent import DirectionDescent
from rfdlight.core.tensors import Columns, per_row


class SignOPT(DirectionDescent):
    """Sign-OPT: decision-based descent of the distance to the decision boundary over directions, in linf or l2.

    g(theta) is the smallest misclassified radius along theta; the best of several random directions comes first. An
    iteration queries x + g (theta + beta u) for random u; the mean of u, negated where the point is misclassified,
    estimates the gradient of g. A line search doubles the step while g falls, or quarters it until g falls. Queries:
    `samples` per iteration; per step 1, or if it is misclassified one per 10 % that g falls and log2(10 g / beta) more;
    per start 1, or about 10 more if it is nearer than all before.

    Source: Cheng, Singh, Chen, Chen, Liu and Hsieh, Sign-OPT: A Query-Efficient Hard-label Adversarial Attack,
    ICLR 2020, algorithm 1.
    Deviations: all lengths are in l2, in linf too; 20 starts and 50 samples, where the authors have 100 and 200;
    samples of size 0.01, not 0.001; radii are tried in steps of 10 %, not 1 %, and known to a hundredth of a sample's
    size, not 1/500, at starts to 0.01, not 1e-5; a step is given up if its point at the best radius is right; a start
    is first queried at the best radius too; a radius is shrunk 100 times at most; samples of a size below 1e-8 begin
    again at 0.01, where the authors stop; starts go on until one is misclassified; queries are clipped to [0, 1].

    Args:
        starting_points: Random directions to choose from; a targeted attack has one, towards its starting point.
        samples: Queries per gradient.
    """

    def __init__(self, starting_points: int = 20, samples: int = 50, **ball: Any) -> None:
        super().__init__(starting_points, samples, **ball)

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        # Queries that the published code does not bill.
        return {**super().init(x, y, seed), "unbilled": torch.zeros_like(y)}

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        checked = (state["phase"] == self.CHECK) & self.is_adversarial(state, answer)
        state["unbilled"] = state["unbilled"] + (checked | (state["phase"] == self.TRY))
        super().tell(state, points, answer)

    def _after_sample(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        u = state["u"]
        state["gathered"] = state["gathered"] + torch.where(per_row(adversarial, u), -u, u)
        self._end_sample(state, torch.ones_like(adversarial))

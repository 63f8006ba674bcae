"""ZO-signSGD as the paper's code queries and counts queries."""

import torch
from torch import Tensor

from rfdlight.attacks.gradient_estimation import GradientEstimation
from rfdlight.attacks.paper.gradient_estimation import PaperGradientEstimation, Unclipped
from rfdlight.attacks.zo_signsgd import ZOSignSGD
from rfdlight.core.tensors import Columns


class PublishedZOSignSGD(Unclipped, ZOSignSGD):
    """ZO-signSGD that queries the iterate after each probe, checks each new iterate and never clips to [0, 1].

    Positions in the cycle: even at probes, odd at the iterate, 2n at the success check.
    """

    @property
    def cycle(self) -> int:
        return 2 * self.samples + 1

    def ask(self, state: Columns) -> Tensor:
        position = self.position(state)
        return self.query(state, position // 2, (position % 2 == 0) & (position < 2 * self.samples))

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss, position = self.objective(state, answer), self.position(state)
        second = position % 2 == 1
        fall = torch.where(second, loss - state["first"], 0.0)
        state["first"] = torch.where(second, state["first"], loss)
        self.collect(state, fall, position == 2 * self.samples - 1)

    def is_success_check(self, state: Columns) -> Tensor:
        return GradientEstimation.is_success_check(self, state)


class PaperZOSignSGD(PaperGradientEstimation):
    """Bills 2n queries per iteration; with our steps, success shows at the query at the iterate."""

    steps = PublishedZOSignSGD

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        shown = 0 if isinstance(self.attack, PublishedZOSignSGD) else 1
        return adversarial & (self.attack.position(state) == shown)

"""SignHunter as the paper's code queries and counts queries."""

import torch
from torch import Tensor

from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.attacks.signhunt import SignHunt
from rfdlight.core import norms
from rfdlight.core.tensors import Columns, per_row


class PublishedSignHunt(SignHunt):
    """SignHunter that queries the base, checks its iterate after each step and never clips to [0, 1].

    The submitted point alone is projected on the ball. The second pass starts at the current iterate, in the paper's
    code at the one before; they differ in at most one value.
    """

    LOOK = 2

    @property
    def first_phase(self) -> int:
        return self.PROBE if self.base_query is False else self.BASE

    def probe(self, state: Columns, signs: Tensor) -> Tensor:
        return self.unprojected(state, signs)

    def submitted(self, state: Columns) -> Tensor:
        offset = self.unprojected(state, state["signs"]) - state["x"]
        return state["x"] + norms.project(offset, self.norm, self.threat.eps)

    def ask(self, state: Columns) -> Tensor:
        points = super().ask(state)
        return torch.where(per_row(self.is_success_check(state), points), self.best(state), points)

    def is_success_check(self, state: Columns) -> Tensor:
        return state["phase"] == self.LOOK

    def next_phase(self, bases: Tensor, flips: Tensor) -> Tensor:
        return torch.where(flips, self.LOOK, super().next_phase(bases, flips))

    def pass_is_over(self, state: Columns) -> Tensor:
        return super().pass_is_over(state) & ~self.is_success_check(state)


class PaperSignHunt(PaperBehaviour[SignHunt]):
    """Bills one query per step and two more per pass, although the base is queried each time."""

    steps = PublishedSignHunt

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        if self.attack.first_phase != self.attack.BASE:
            return evaluated
        return self.attack.eot * (state["flips"] + 2 * state["passes"])

    def between_iterations(self, state: Columns) -> Tensor:
        # The first step of a pass includes the probe of v = +1.
        half = (state["score"] > -torch.inf) & (state["level"] + state["chunk"] == 0)
        return (state["phase"] == self.attack.first_phase) & ~half

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        checked = isinstance(self.attack, PublishedSignHunt)
        return adversarial & (self.between_iterations(state) if checked else state["kept"])

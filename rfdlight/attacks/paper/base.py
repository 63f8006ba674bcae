"""The base class of what the published code of an attack bills, exceeds and reports."""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core.tensors import Columns

A = TypeVar("A", bound=Attack)


class PaperBehaviour(Generic[A]):
    """Query counting and success reports of an attack's published code, for the paper's query counting and criterion.

    The defaults are those of code that bills every evaluation, checks its budget after each query and reports no
    success.

    Args:
        attack: The attack, as the engine configured it.
    """

    steps: ClassVar[type[Attack] | None] = None
    """The attack's subclass with the steps of the published code, if these differ."""

    def __init__(self, attack: A) -> None:
        self.attack = attack

    @property
    def confirmed_by_votes(self) -> bool:
        """Whether votes have to confirm a reported success."""
        return self.attack.access != "decision"

    def billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        """Return the evaluations that the published code bills, (rows,) int64.

        Args:
            state: Between two queries.
            evaluated: (rows,) int64, evaluations so far without success checks.
        """
        return evaluated

    def without_first(self, evaluated: Tensor) -> Tensor:
        """Return evaluations without those of the first query, (rows,) int64."""
        return (evaluated - self.attack.eot).clamp_min(0)

    def between_iterations(self, state: Columns) -> Tensor:
        """Return the rows for which the published code checks its budget now, (rows,) bool."""
        return torch.ones_like(state["y"], dtype=torch.bool)

    def ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        """Return the rows that the published code ends now because of their budget, (rows,) bool."""
        return self.between_iterations(state) & (self.billed(state, evaluated) >= state["budget"])

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        """Return the rows whose success the published code reports after a query, (rows,) bool.

        Args:
            state: After `tell`.
            adversarial: (rows,) bool, whether the query's answer is adversarial.
        """
        return torch.zeros_like(adversarial)

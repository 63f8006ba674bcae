"""The base class of attacks whose rows go through phases, with one pair of methods per phase."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core.tensors import Columns, take

Ask = Callable[[Columns], Tensor]
"""Returns the points of rows that are all in one phase; new entries of the state are kept for `tell`."""

Tell = Callable[[Columns, Tensor, Tensor], None]
"""Gets such rows, their points and whether these were adversarial, (rows,) bool; assigns new values to columns."""


class PhasedAttack(Attack):
    """Base class of decision-based attacks whose column `phase`, (rows,) int64, numbers the pairs of `phases`."""

    access = "decision"

    @abstractmethod
    def phases(self) -> tuple[tuple[Ask, Tell], ...]:
        """Return the methods of each phase: for its points and for their answers."""

    def ask(self, state: Columns) -> Tensor:
        points = torch.empty_like(state["x"])
        for (build, _), rows, own in self._by_phase(state):
            if own is state:
                return build(state)
            known = set(own)
            points[rows] = build(own)
            for name in own.keys() - known:  # left for `tell`
                left = state.setdefault(name, own[name].new_zeros(len(points), *own[name].shape[1:]))
                left[rows] = own[name]
        return points

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        adversarial = self.is_adversarial(state, answer)
        for (_, handle), rows, own in self._by_phase(state):
            if own is state:
                handle(state, points, adversarial)
                return
            before = dict(own)
            handle(own, points[rows], adversarial[rows])
            for name, value in own.items():
                if value is not before[name]:
                    state[name][rows] = value

    def _by_phase(self, state: Columns) -> Iterator[tuple[tuple[Ask, Tell], Tensor, Columns]]:
        """Yield the methods of each phase that has rows, their numbers and columns: a copy, or `state` for all rows."""
        phase = state["phase"].clone()
        for number, methods in enumerate(self.phases()):
            rows = (phase == number).nonzero()[:, 0]
            if len(rows):
                yield methods, rows, state if len(rows) == len(phase) else take(state, rows)

"""Query counting: which evaluations are billed, and when the budget of an image is spent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.attacks.paper import PaperBehaviour, paper_behaviour
from rfdlight.core.tensors import Columns
from rfdlight.engine.ledger import Kind, Ledger
from rfdlight.engine.pool import Pool

QueryCounting = Literal["exact", "paper"]


@dataclass(frozen=True)
class ExactCounting:
    """Bills every evaluation that the attacker uses, and never exceeds the budget."""

    attack: Attack
    pool: Pool
    ledger: Ledger
    budget: int  # billed queries per image
    eot: int  # evaluations per query

    leaves_pixel_range: ClassVar[bool] = False
    """Whether queries may leave [0, 1]."""
    free_success_checks: ClassVar[bool] = False
    """Whether success checks are the evaluator's: not billed, and answered by one evaluation."""

    @property
    def _kind(self) -> Kind:
        """The only kind of evaluations that choose the attacker's next point."""
        return "gradient" if self.attack.access == "gradient" else "attack"

    def billed(self, rows: slice | Tensor, state: Columns | None = None) -> Tensor:
        """Return the queries billed to some images, (rows,); their attack columns, `state`, save a read of the pool."""
        counts = self.pool.images.counts  # as `QueryCounts.billed`, without the kind that is always 0: one launch less
        chosen = counts.gradient if self._kind == "gradient" else counts.attack
        return chosen[rows] + counts.success_check[rows] + counts.refused[rows]

    def billed_after(self, clock: Tensor, rows: slice | Tensor, state: Columns) -> Tensor:
        """Return the queries billed to some images after a query before which they were `clock`, (rows,)."""
        return clock + self.eot

    def ended(self, billed: Tensor, rows: Tensor, state: Columns | None = None) -> Tensor:
        """Return whether the budget of images with these billed queries does not pay for another, (rows,) bool."""
        return billed > self.budget - self.eot

    def charge(self, rows: slice | Tensor, success_checks: Tensor | None) -> None:
        """Charge images for one query each, which only checked for success where `success_checks`, (rows,) bool."""
        others: int | Tensor = self.eot
        if success_checks is not None:
            self._charge_success_checks(rows, success_checks)
            others = self.eot - self.eot * success_checks
        self.ledger.charge(self.pool.images.counts, rows, self._kind, others)

    def _charge_success_checks(self, rows: slice | Tensor, success_checks: Tensor) -> None:
        self.ledger.charge(self.pool.images.counts, rows, "success_check", self.eot * success_checks)


@dataclass(frozen=True)
class PaperCounting(ExactCounting):
    """Bills, wastes and exceeds as the paper's code, attack by attack; success checks are the evaluator's and free."""

    leaves_pixel_range: ClassVar[bool] = True
    free_success_checks: ClassVar[bool] = True

    @cached_property
    def behaviour(self) -> PaperBehaviour[Any]:
        """The query counting of the attack's published code."""
        return paper_behaviour(self.attack)

    def billed(self, rows: slice | Tensor, state: Columns | None = None) -> Tensor:
        state = self.pool.attack_state(rows) if state is None else state
        return self.behaviour.billed(state, self.pool.images.counts.evaluated[rows]).clamp(0, self.budget)

    def billed_after(self, clock: Tensor, rows: slice | Tensor, state: Columns) -> Tensor:
        return self.billed(rows, state)

    def ended(self, billed: Tensor, rows: Tensor, state: Columns | None = None) -> Tensor:
        state = self.pool.attack_state(rows) if state is None else state
        return self.behaviour.ended(state, self.pool.images.counts.evaluated[rows])

    def _charge_success_checks(self, rows: slice | Tensor, success_checks: Tensor) -> None:
        self.ledger.charge(self.pool.images.counts, rows, "criterion", success_checks.long())
        if self.eot > 1:
            self.ledger.pad((self.eot - 1) * success_checks.sum())


COUNTINGS = {"exact": ExactCounting, "paper": PaperCounting}

"""Query policies: stateful defenses, which refuse queries because of earlier ones, or ban accounts.

A policy sees the point of every query, in the order in which the queries arrive, with the account that makes it, and
detects those that belong to an attack. What follows is its action:

- "flag" counts the query and answers it, which measures a detector alone;
- "refuse" gives no answer: the query is billed and costs no forward pass;
- "ban" refuses too, and closes the account; the attacker goes on with a new one.

Every attacked image begins with an account of its own. The policy keeps what it has stored when an account is closed.
An attack that implements `rfdlight.attacks.base.Attack.refused` may go on after a refusal; any other attack ends there,
and its best point so far is evaluated. The evaluator's own evaluations, of clean images, candidates and final points,
do not pass the policy, nor do those of white-box attacks, which have the model.

The engine inspects the queries (`rfdlight.engine.inspection`). A policy is chosen like any defense, and acts beside
those that change activations.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from rfdlight.core.activations import InsertionPoint
from rfdlight.defenses.base import Defense
from rfdlight.errors import unknown_name

Action = Literal["flag", "refuse", "ban"]
ACTIONS: tuple[Action, ...] = get_args(Action)


class QueryPolicy(Defense):
    """Base class of stateful defenses: detects queries of an attack among all queries, and changes no activation.

    Subclasses define `begin`, `detect` and `describe`.

    Args:
        action: What follows a detection: "flag", "refuse" or "ban".

    Raises:
        UserError: If there is no such action.
    """

    def __init__(self, action: Action = "refuse") -> None:
        super().__init__()
        if action not in ACTIONS:
            raise unknown_name("defense.action", action, ACTIONS)
        self.action = action

    @abstractmethod
    def begin(self, seed: int) -> None:
        """Forget all queries; called before the first query of an attack, with the seed of the run."""

    @abstractmethod
    def detect(self, points: Tensor, accounts: Sequence[str]) -> Tensor:
        """Store queries in their order, and return which of them belong to an attack, (rows,) bool on the CPU.

        Args:
            points: (rows, C, H, W) in [0, 1]; a query may match an earlier row.
            accounts: The account of each row.
        """

    @property
    def is_random(self) -> bool:
        return False

    def insertion_points(self, model: nn.Module) -> list[InsertionPoint]:
        """Return no point: a policy changes no activation."""
        return []

    def transform(self, x: Tensor, point: int) -> Tensor:
        """Return the activation itself; never called, since there is no insertion point."""
        return x

"""What an attack is told of its queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core.tensors import Columns
from rfdlight.engine.error_isolation import Answered, ErrorIsolation
from rfdlight.engine.oracle import Oracle


@dataclass(frozen=True)
class QueryAnswers:
    """The answers to some queries.

    Attributes:
        rows: (told,) int64, the queries that were answered, in rising order.
        answer: What the attack reads, one row for each of them.
        labels: (told,) int64, the label that each of them amounts to.
        logits: (told, classes), the mean logits of each query's evaluations, which an attack may not see.
        failed: The reason for each image that failed.
    """

    rows: Tensor
    answer: Tensor
    labels: Tensor
    logits: Tensor
    failed: dict[int, str]


class QueryStep:
    """Asks the oracle what an attack wants to know, and averages the evaluations of a query.

    Args:
        oracle: Owns the victim.
        triage: Finds the images that fail.
        attack: Says what it reads.
        eot: Evaluations per query.
    """

    def __init__(self, oracle: Oracle, triage: ErrorIsolation, attack: Attack, eot: int) -> None:
        self._oracle = oracle
        self._isolation = triage
        self._attack = attack
        self._eot = eot

    def ask(self, points: Tensor, clock: Tensor, image: Tensor, state: Columns, single: Tensor) -> QueryAnswers:
        """Make one forward pass of queries.

        Args:
            points: (queries, C, H, W).
            clock: (queries,) int64, queries billed before each.
            image: (queries,) int64, the number of its image.
            state: Of the images.
            single: (queries,) bool, those that are told of one evaluation alone.
        """
        question = {"points": points, "clock": clock, "image": image, "y": state["y"], "target": state["target"]}
        if self._eot > 1:
            question = {name: value.repeat_interleave(self._eot, 0) for name, value in question.items()}
        gradients = self._attack.access == "gradient"
        answered = self._isolation.ask("attack", question, self._gradients if gradients else self._scores)
        rows = answered.rows[:: self._eot] // self._eot
        if not len(rows):
            return QueryAnswers(rows, points[:0], rows, points[:0], answered.failed)
        draws = answered.values[0].view(len(rows), self._eot, -1)
        answer, labels = self._averaged(answered, draws, state["y"][rows], single[rows])
        logits = draws.mean(1) if self._eot > 1 else draws[:, 0]
        return QueryAnswers(rows, answer, labels, logits, answered.failed)

    def _scores(self, question: Columns) -> tuple[Tensor, ...]:
        return (self._oracle.scores(question["points"], question["clock"], "attack"),)

    def _gradients(self, question: Columns) -> tuple[Tensor, ...]:
        def objective(logits: Tensor) -> Tensor:
            return self._attack.objective(question, logits)

        return self._oracle.gradients(question["points"], question["clock"], objective)

    def _averaged(self, answered: Answered, draws: Tensor, y: Tensor, single: Tensor) -> tuple[Tensor, Tensor]:
        """Return the answers and the labels of queries with logits `draws`, whose images have the labels `y`."""
        if self._attack.access == "gradient":
            gradient = answered.values[1]
            return gradient.view(len(y), self._eot, *gradient.shape[1:]).mean(1), draws.mean(1).argmax(1)
        if self._attack.access == "score":
            logits = torch.where(single[:, None], draws[:, 0], draws.mean(1))
            return logits, logits.argmax(1)
        votes = torch.zeros_like(draws[:, 0], dtype=torch.int64)
        votes.scatter_add_(1, draws.argmax(2), torch.ones_like(votes[:, :1]).expand(-1, self._eot))
        # Ties go to the right label, else to the first class.
        votes = 2 * votes
        votes.scatter_add_(1, y[:, None], torch.ones_like(votes[:, :1]))
        labels = votes.argmax(1)
        return labels, labels

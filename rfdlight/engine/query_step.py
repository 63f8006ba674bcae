"""Query step: one forward pass of an attack's queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rfdlight.attacks.base import Attack
from rfdlight.core.tensors import Columns, add, indices, may_hold, put, take
from rfdlight.engine.criteria.base import Queries
from rfdlight.engine.error_isolation import ErrorIsolation
from rfdlight.engine.inspection import Inspection
from rfdlight.engine.oracle import Oracle
from rfdlight.engine.pool import Pool
from rfdlight.engine.query_counting import ExactCounting


@dataclass(frozen=True)
class QueryStep:
    """Gets points from the attack, evaluates them, charges the images and gives the answers to the attack."""

    oracle: Oracle
    isolation: ErrorIsolation
    attack: Attack
    counting: ExactCounting
    pool: Pool
    eot: int  # evaluations per query
    inspection: Inspection | None = None  # by a query policy

    def run(self, rows: slice | Tensor) -> tuple[Queries | None, dict[int, str]]:
        """Make one query for the image in each of some rows of the pool, at least one.

        Returns the answered queries, None if there are none, and the reason for each row on which the victim failed.
        """
        attack, eot = self.attack, self.eot
        state = self.pool.attack_state(rows)
        clock = self.counting.billed(rows, state)
        points = attack.ask(state)
        checks = attack.is_success_check(state)
        numbers = indices(self.pool.pool_size, points.device)[rows] if isinstance(rows, slice) else rows
        if self.inspection is not None:
            kept = self.inspection.answered(numbers, points, state)
            if not len(kept):
                return None, {}
            if len(kept) < len(numbers):
                state, numbers, points, clock, checks = _only(kept, state, numbers, points, clock, checks)
                rows = numbers
        batch = {"points": points, "clock": clock, "image": numbers, "y": state["y"], "target": state["target"]}
        if eot > 1:
            batch = {name: value.repeat_interleave(eot, 0) for name, value in batch.items()}
        gradients = attack.access == "gradient"
        answered = self.isolation.evaluate("attack", batch, self._gradients if gradients else self._scores)
        if answered.failed:
            kept = answered.rows[::eot] // eot
            if not len(kept):
                return None, answered.failed
            state, numbers, points, clock, checks = _only(kept, state, numbers, points, clock, checks)
            rows = numbers
        answer, labels, logits = self._answers(answered.values, state["y"], checks)
        self.counting.charge(rows, checks)
        attack.tell(state, points, answer)
        put(self.pool.images.attack, rows, state)
        answers = attack.is_adversarial(state, labels)
        adversarial = answers & attack.threat.contains(state["x"], points) if may_hold(answers) else answers
        add(self.pool.images.candidates.candidates, rows, adversarial)
        billed = self.counting.billed_after(clock, rows, state)
        return Queries(attack, state, numbers, points, clock, billed, logits, answers, adversarial), answered.failed

    def _answers(self, values: tuple[Tensor, ...], y: Tensor, checks: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the attack gets, the label of each query and its mean logits."""
        each = values[0].view(len(y), self.eot, -1)
        access, several = self.attack.access, self.eot > 1
        mean = each.mean(1) if several else each[:, 0]
        if access == "gradient":
            gradient = values[1]
            averaged = gradient.view(len(y), self.eot, *gradient.shape[1:]).mean(1) if several else gradient
            return averaged, mean.argmax(1), mean
        if access == "decision":
            labels = most_frequent(each.argmax(2), y, each.shape[2]) if several else mean.argmax(1)
            return labels, labels, mean
        answer = mean
        if checks is not None and several and self.counting.free_success_checks:
            answer = torch.where(checks[:, None], each[:, 0], mean)
        return answer, answer.argmax(1), mean

    def _scores(self, batch: Columns) -> tuple[Tensor, ...]:
        return (self.oracle.scores(batch["points"], batch["clock"], "attack"),)

    def _gradients(self, batch: Columns) -> tuple[Tensor, ...]:
        return self.oracle.gradients(
            batch["points"], batch["clock"], lambda logits: self.attack.objective(batch, logits)
        )


def _only(
    kept: Tensor, state: Columns, numbers: Tensor, points: Tensor, clock: Tensor, checks: Tensor | None
) -> tuple[Columns, Tensor, Tensor, Tensor, Tensor | None]:
    """Return what belongs to the queries at the positions `kept`, (kept,) int64."""
    return take(state, kept), numbers[kept], points[kept], clock[kept], None if checks is None else checks[kept]


def most_frequent(labels: Tensor, y: Tensor, classes: int) -> Tensor:
    """Return the most frequent of the labels (queries, evaluations) of each query, (queries,).

    A tie goes to the image's own label, `y`, else to the first class.
    """
    votes = 2 * one_hot(labels, classes).sum(1)
    return (votes + one_hot(y, classes)).argmax(1)

"""Inspection: a query policy sees each query of an attack before the victim, and may refuse it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core.tensors import Columns, indices, put, take
from rfdlight.engine.ledger import Ledger
from rfdlight.engine.pool import Pool

if TYPE_CHECKING:  # the engine runs without Lightning, which the defenses import
    from rfdlight.defenses.policy import QueryPolicy


@dataclass(frozen=True)
class Inspection:
    """Shows the queries of a pass to a policy, in the order of their rows, and charges those that it refuses."""

    policy: QueryPolicy
    attack: Attack
    pool: Pool
    ledger: Ledger

    def answered(self, rows: Tensor, points: Tensor, state: Columns) -> Tensor:
        """Return the positions of the queries that are answered, in rising order; refused ones reach the attack here.

        Args:
            rows: (queries,) int64, row of the pool of each query.
            points: (queries, C, H, W).
            state: The attack's columns of these rows, after `ask`.
        """
        images = self.pool.images
        counts, detection = images.counts, images.detection
        accounts = [
            f"{self.pool.ids[row]}#{account}"
            for row, account in zip(rows.tolist(), counts.accounts[rows].tolist(), strict=True)
        ]
        flags = self.policy.detect(points, accounts).to(rows.device)
        found = rows[flags]
        first = found[detection.detected[found] == 0]
        detection.first_detected[first] = counts.billed[first] + 1
        detection.detected[found] += 1
        if self.policy.action == "flag" or not len(found):
            return indices(len(rows), rows.device)
        self.ledger.refuse(counts, found, banned=self.policy.action == "ban")
        refused = take(state, flags.nonzero()[:, 0])
        if self.attack.refused(refused, points[flags]):
            put(images.attack, found, refused)
        else:
            detection.ended[found] = True
        return (~flags).nonzero()[:, 0]

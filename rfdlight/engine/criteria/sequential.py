"""Success criterion "sequential": 9 votes, then a sequential t test of the mean margin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.engine.criteria.base import MAJORITY, Conclusion, Queries, SuccessCriterion, count_votes
from rfdlight.engine.evaluations import LEVEL
from rfdlight.engine.state import ImageState


@dataclass
class SequentialState:
    """The criterion's own state, (rows,) each."""

    rival: Tensor  # int64, the class with the largest mean logit in the votes
    testing: Tensor  # bool, whether the candidate is in the t test
    failures: Tensor  # int64, rejected candidates
    skip: Tensor  # int64, candidates that will be skipped


class SequentialCriterion(SuccessCriterion):
    """Tests whether the mean logits are adversarial, with a bound on the probability of a wrong success.

    A candidate is evaluated until 5 of at most 9 votes agree. If these are adversarial, the margin of the mean logits
    is tested on blocks of 20 fresh evaluations, at most 200. The candidate is rejected once that margin is positive
    after a block. The image counts as adversarial once the mean margin to the rival class is negative in a
    one-sided t test. The rival has the largest mean logit in the votes, so other evaluations choose the rival than
    test it. In a targeted attack, the target's mean margin to every other class has to be positive in such a test.

    The k-th test of an image has the level 0.05 * 6 / (pi^2 k^2), split evenly over its 10 looks, so that the tests of
    a robust image succeed with a probability of at most 0.05 where margins are about normal. After the f-th rejection,
    the image's next f candidates are skipped.
    """

    block = 20
    most = 200
    level = LEVEL

    def open(self, y: Tensor) -> SequentialState:
        zero = torch.zeros_like
        return SequentialState(zero(y), zero(y, dtype=torch.bool), zero(y), zero(y))

    def candidates(self, queries: Queries, images: ImageState) -> Tensor:
        positions = super().candidates(queries, images)
        if not len(positions):
            return positions
        skip, rows = images.criterion.skip, queries.rows[positions]
        waits = skip[rows] > 0
        skip[rows[waits]] -= 1
        return positions[~waits]

    def first_evaluations(self, attack: Attack) -> int:
        return MAJORITY

    def conclude(self, images: ImageState, rows: Tensor) -> Conclusion:
        own: SequentialState = images.criterion
        testing = own.testing[rows]
        more, adversarial = torch.zeros_like(rows), torch.zeros_like(testing)
        for there, stage in ((~testing, self._vote), (testing, self.look)):
            if there.any():
                found = stage(images, rows[there])
                more[there], adversarial[there] = found.more, found.adversarial
        final = more <= 0
        own.testing[rows[final]] = False
        rejected = rows[final & ~adversarial]
        own.failures[rejected] += 1
        own.skip[rejected] = own.failures[rejected]
        return Conclusion(more, adversarial)

    def _vote(self, images: ImageState, rows: Tensor) -> Conclusion:
        """Count votes; a majority starts the test."""
        votes = count_votes(images, rows)
        passed = rows[votes.adversarial]
        images.criterion.rival[passed] = images.evaluations.others(passed).argmin(1)
        images.criterion.testing[passed] = True
        images.candidates.tested_candidates[passed] += 1
        images.evaluations.restart(passed, self.block)
        return Conclusion(votes.more + self.block * votes.adversarial, torch.zeros_like(votes.adversarial))

    def look(self, images: ImageState, rows: Tensor) -> Conclusion:
        """Test the mean margins of some images whose block is complete."""
        evaluations = images.evaluations
        p_values = evaluations.p_values(rows)
        rival = p_values[np.arange(len(rows)), images.criterion.rival[rows].cpu().numpy()]
        # The target has to exceed every other class, and each of these tests has the whole level.
        targeted, reference = (column[rows].cpu().numpy() for column in (evaluations.targeted, evaluations.reference))
        others = (1 - p_values).max(1, where=np.arange(p_values.shape[1]) != reference[:, None], initial=0)
        tests = images.candidates.tested_candidates[rows].cpu().numpy()
        level = self.level * 6 / (math.pi**2 * tests**2) / (self.most // self.block)
        significant = torch.from_numpy(np.where(targeted, others, rival) <= level).to(rows.device)
        hit = evaluations.is_adversarial(rows)
        adversarial = significant & hit
        undecided = ~adversarial & hit & (evaluations.count[rows] < self.most)
        return Conclusion(self.block * undecided, adversarial)

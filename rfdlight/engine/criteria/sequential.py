"""Success criterion "sequential": a short screen, then a sequential test of the mean margin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core.tensors import may_hold
from rfdlight.engine.criteria.base import Conclusion, Queries, SuccessCriterion
from rfdlight.engine.evaluations import MOST_BEFORE_FINAL
from rfdlight.engine.state import ImageState


@dataclass
class SequentialState:
    """The criterion's own state, (rows,) each."""

    testing: Tensor  # bool, whether the candidate or the would-be submission is in its test
    tests: Tensor  # int64, tests so far
    failures: Tensor  # int64, rejected candidates
    skip: Tensor  # int64, candidates that will be skipped


class SequentialCriterion(SuccessCriterion):
    """Tests whether the mean logits are adversarial, with a bound on the probability of a wrong success.

    A candidate is first screened by 1, 2, 4, ... 32 fresh evaluations. It is rejected as soon as their mean logits are
    not adversarial, and passes once the bets of `EvaluationState` have multiplied their wealth by 4. Then further fresh
    evaluations of it, at most 400, are tested by `MeanMarginTest`, with stakes from the screen. The candidate is
    rejected as soon as their mean logits are not adversarial. A success is final: the evaluations of the test are those
    of the image's final point.

    A point that the attack would submit is evaluated at most 100 times. Once the wealth is multiplied by 4, its test
    begins with a wealth of 1. The evaluations continue whatever the sign of their mean margin, until they decide or
    have no prospect of it.

    The k-th test of an image has the level L * 6 / (pi^2 k^2), so that all tests of a robust image succeed with a
    probability of at most L, by default 0.025, however long they last and whenever they stop. After the f-th rejection,
    the image's next f candidates are skipped.
    """

    reaches_verdict = True
    evaluates_interim = True
    screen = 32
    passes = 4.0
    most_interim = 100

    def open(self, y: Tensor) -> SequentialState:
        zero = torch.zeros_like(y)
        return SequentialState(torch.zeros_like(y, dtype=torch.bool), zero, zero, zero)

    def candidates(self, queries: Queries, images: ImageState) -> Tensor:
        candidates = super().candidates(queries, images)
        skip: Tensor = images.criterion.skip
        if not may_hold(candidates):
            return candidates
        skipped = candidates & (skip[queries.rows] > 0)
        skip.index_add_(0, queries.rows, skipped.long(), alpha=-1)
        return candidates > skipped

    def first_evaluations(self, attack: Attack) -> int:
        return 1

    def conclude(self, images: ImageState, rows: Tensor) -> Conclusion:
        own: SequentialState = images.criterion
        testing = own.testing[rows]
        more, adversarial = torch.zeros_like(rows), torch.zeros_like(testing)
        for there, stage in ((~testing, self._screen), (testing, self._test)):
            if there.any():
                found = stage(images, rows[there])
                more[there], adversarial[there] = found.more, found.adversarial
        final = more <= 0
        own.testing[rows[final]] = False
        rejected = rows[final & ~adversarial]
        own.failures[rejected] += 1
        own.skip[rejected] = own.failures[rejected]
        return Conclusion(more, adversarial)

    def _screen(self, images: ImageState, rows: Tensor) -> Conclusion:
        evaluations = images.evaluations
        hit = evaluations.is_adversarial(rows)
        passed = hit & (evaluations.evidence(rows)[0] >= math.log(self.passes))
        undecided = hit & ~passed & (evaluations.count[rows] < self.screen)
        more = evaluations.count[rows] * undecided
        evaluations.bet(rows)
        tested = rows[passed]
        self._begin_tests(images, tested)
        images.candidates.tested_candidates[tested] += 1
        evaluations.restart(tested, self.final_test.first, keep_stakes=True)
        return Conclusion(more + self.final_test.first * passed, torch.zeros_like(hit))

    def _test(self, images: ImageState, rows: Tensor) -> Conclusion:
        adversarial = self._decide(images, rows) > 0
        undecided = ~adversarial & images.evaluations.is_adversarial(rows)
        return Conclusion(self.final_test.request(images.evaluations, rows, MOST_BEFORE_FINAL) * undecided, adversarial)

    def _begin_tests(self, images: ImageState, rows: Tensor) -> None:
        images.criterion.testing[rows] = True
        images.criterion.tests[rows] += 1

    def _decide(self, images: ImageState, rows: Tensor) -> Tensor:
        """Return the verdicts of the test that each image is in, (rows,), as `MeanMarginTest.decide`."""
        tests = images.criterion.tests[rows].double()
        return self.final_test.decide(images.evaluations, rows, self.level * 6 / (math.pi * tests) ** 2)

    def conclude_interim(self, images: ImageState, rows: Tensor) -> Conclusion:
        own, evaluations = images.criterion, images.evaluations
        testing = own.testing[rows]
        decided = self._decide(images, rows)
        decided = torch.where(testing, decided, decided.clamp_max(0))
        goes_on = (decided == 0) & (evaluations.count[rows] < self.most_interim)
        passed = goes_on & ~testing & (evaluations.evidence(rows)[0] >= math.log(self.passes))
        # A test is counted only where the wealth has grown, so the test itself begins without this wealth.
        self._begin_tests(images, rows[passed])
        evaluations.drop_evidence(rows[passed])
        more = self.final_test.request(evaluations, rows, self.most_interim) * (decided == 0)
        own.testing[rows[more <= 0]] = False
        return Conclusion(more, decided > 0)

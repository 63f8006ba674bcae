"""Interface of success criteria."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core.tensors import Columns, take
from rfdlight.engine.evaluations import ADVERSARIAL_LEVEL, MeanMarginTest
from rfdlight.engine.state import ImageState
from rfdlight.errors import UserError

VOTES = 9
"""Fresh evaluations of a candidate, a majority of which has to be adversarial."""

MAJORITY = VOTES // 2 + 1


@dataclass(frozen=True)
class Queries:
    """The answered queries of one forward pass, at most one of each image."""

    attack: Attack
    state: Columns  # the attack's columns after `tell`, one row per query; `x`, `y`, `target` are there too
    rows: Tensor  # (queries,) int64, the row of each query's image in the pool: that of `ImageState`
    points: Tensor  # (queries, C, H, W) float32
    clock: Tensor  # (queries,) int64, queries billed before each
    billed: Tensor  # (queries,) int64, queries billed including it
    logits: Tensor  # (queries, classes) float32, the mean logits of each query's evaluations
    adversarial_answer: Tensor  # (queries,) bool, whether the answer is adversarial, wherever the point is
    adversarial: Tensor  # (queries,) bool, whether the point is in the ball and the answer adversarial

    def take(self, positions: Tensor) -> Queries:
        """Return the queries at some positions, (kept,) int64."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Queries(self.attack, take(self.state, positions), **take(own, positions))


@dataclass(frozen=True)
class Conclusion:
    """Conclusion of a success criterion from the evaluations of some candidates."""

    more: Tensor  # (rows,) int64 >= 0, further evaluations that each candidate needs; 0 where the decision is final
    adversarial: Tensor  # (rows,) bool, whether the image counts as adversarial; read where `more` is 0


class SuccessCriterion(ABC):
    """Decides when an image counts as adversarial, by fresh evaluations that the attacker neither sees nor pays for.

    After every forward pass of queries, the engine calls

    1. `candidates`, which selects the queries that have a candidate;
    2. `points` and `first_evaluations` for the selected queries, if there are any. The engine then makes as many fresh
       evaluations of each candidate, in passes that images share; the attack on these images waits;
    3. `conclude`, when the requested evaluations of some candidates are complete, repeatedly while it wants more.

    Where `evaluates_interim`, the engine also evaluates the point that the attack would submit after 10, 30, 100, ...
    queries, and calls `conclude_interim` in the place of `conclude`; an adversarial submission is a success too.

    An adversarial candidate is a success: it ends the attack on its image, at the query of the candidate. After a
    rejected one, the attack continues. Final evaluations of the candidate, or of the attack's best point without
    success, then decide the verdict by `final_test`. Before the attack, it decides in the same way whether the clean
    image is right; a wrong one is not attacked.

    For a deterministic victim, one answer replaces `final_test` and `conclude`. A candidate is
    adversarial by the answer to its query (in float32, under exact query counting, without `points`) or if
    `first_evaluations` is 0, and is else evaluated once.

    The engine uses one criterion for all images of a run. What lasts from call to call is in the tensors of `open`, not
    in attributes. A decision depends on its own image alone. `rfdlight.testing.check_criterion` checks all this.

    Args:
        final_evaluations: Most fresh evaluations of an image's final point, >= 2; a clean image gets at most 400.

    Attributes:
        final_test: The test of clean images and of final points, the same under every criterion.
        level: Largest probability of a wrong verdict "adversarial" at a final point, and at all candidates and
            would-be submissions of an image together.
    """

    reaches_verdict: ClassVar[bool] = False
    """Whether the evaluations of a success are final ones, where `final_test` decides by them.

    The success is then a verdict, and no evaluations follow; where `final_test` does not decide by them, final ones
    follow as after any other success. They have to be fresh from the start of the test on: `conclude` calls `restart`
    of `images.evaluations` before the test, and does not continue the evaluations by which it chose the candidate. All
    tests of a robust image together succeed with a probability of at most `level`.
    """

    evaluates_interim: ClassVar[bool] = False
    """Whether `conclude_interim` decides on the points that the attack would submit before its budget ends.

    Only of a criterion that `reaches_verdict`: the evaluations of a success are final ones.
    """

    level: float = ADVERSARIAL_LEVEL

    def __init__(self, final_evaluations: int = 1500) -> None:
        if final_evaluations < 2:
            raise UserError(f"final_evaluations: expected at least 2, got {final_evaluations}")
        self.final_test = MeanMarginTest(final_evaluations)

    def at_level(self, level: float) -> Self:
        """Set the level, of the final test too, and return the criterion."""
        self.level = level
        self.final_test = replace(self.final_test, level=level)
        return self

    def check(self, attack: Attack) -> None:  # noqa: B027  most criteria accept every attack
        """Raise a UserError if the criterion is not defined for an attack, before the run; by default, never."""

    def open(self, y: Tensor) -> Any:
        """Return the criterion's own state of new images: later `ImageState.criterion`, by default empty.

        It is a dictionary or a dataclass of tensors, (rows, ...), always of the same names, dtypes and shapes.
        `candidates` and `conclude` change it in place, in the rows of their images. An image may move to another row.

        Args:
            y: (rows,) int64, the labels.
        """
        return {}

    def candidates(self, queries: Queries, images: ImageState) -> Tensor:
        """Return which queries have a candidate, (queries,) bool.

        By default, all with an adversarial answer in the ball; a criterion without `points` selects no others.

        Args:
            queries: The queries of one pass.
            images: The state of all images in the pool, of which `candidates` changes the criterion's own alone.
        """
        return queries.adversarial

    def points(self, candidates: Queries) -> Tensor | None:
        """Return the points to evaluate, (candidates, C, H, W) float32, by default None for the points of the queries.

        They are also the final points of images that succeed, moved into the ball and [0, 1].
        """
        return None

    @abstractmethod
    def first_evaluations(self, attack: Attack) -> int:
        """Return how many fresh evaluations each candidate gets first, >= 0; with 0 it is adversarial without any."""

    def conclude(self, images: ImageState, rows: Tensor) -> Conclusion:
        """Decide on the candidates of some images whose requested evaluations are complete, by default by majority.

        `images.evaluations` holds the sums over the evaluations of each candidate so far: `count`, `adversarial`
        answers, and by the mean logits `is_adversarial(rows)` and `mean_margin(rows)`, which are those of the target in
        a targeted attack. The method is not called for a deterministic victim, nor if `first_evaluations` is 0.

        A criterion that reads the evidence of `images.evaluations` calls its `bet` after each look, as
        `MeanMarginTest.request` does, since evaluations without stakes are no evidence. `restart` drops the evaluations
        so far. The next ones are `Conclusion.more`, whatever `restart` requests. Each candidate has to be decided after
        finitely many evaluations.

        Args:
            images: The state of all images in the pool. In the given rows, `conclude` may change the criterion's own,
                `evaluations`, and the counters `tested_candidates` and `first_9_vote_success` of `candidates`.
            rows: (rows,) int64, the rows of the images.
        """
        return majority(images, rows)

    def conclude_interim(self, images: ImageState, rows: Tensor) -> Conclusion:
        """Decide on the points that the attack would submit, as `conclude` on candidates; not called by default.

        The evaluations begin with `final_test.first`. The point is not chosen by them, so all of them may count, and
        the sign of their mean margin is that of an undecided image in a curve of robust accuracy: they may not end at a
        mean margin only because its sign is not adversarial.
        """
        raise NotImplementedError


def majority(images: ImageState, rows: Tensor) -> Conclusion:
    """Decide by the majority of the evaluations."""
    adversarial, count = images.evaluations.adversarial[rows], images.evaluations.count[rows]
    return Conclusion(torch.zeros_like(rows), 2 * adversarial > count)


def count_votes(images: ImageState, rows: Tensor) -> Conclusion:
    """Decide by the majority of 9 evaluations, of which no more are made than needed, and record the first success."""
    adversarial, count = images.evaluations.adversarial[rows], images.evaluations.count[rows]
    more = MAJORITY - torch.maximum(adversarial, count - adversarial)
    passed = (more <= 0) & (2 * adversarial > count)
    first = rows[passed & (images.candidates.first_9_vote_success[rows] < 0)]
    images.candidates.first_9_vote_success[first] = images.points.billed[first]
    return Conclusion(more, passed)

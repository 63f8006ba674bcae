"""Interface of success criteria."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core.tensors import Columns, take
from rfdlight.engine.evaluations import MeanMarginTest
from rfdlight.engine.state import ImageState

VOTES = 9
"""Fresh evaluations of a candidate, a majority of which has to be adversarial."""

MAJORITY = VOTES // 2 + 1


@dataclass(frozen=True)
class Queries:
    """The answered queries of one forward pass."""

    attack: Attack
    state: Columns  # the attack's columns after `tell`, one row per query
    rows: Tensor  # (queries,) int64, the row of each query's image in the pool
    points: Tensor  # (queries, C, H, W)
    clock: Tensor  # (queries,) int64, queries billed before each
    logits: Tensor  # (queries, classes), the mean logits of each query's evaluations
    adversarial_answer: Tensor  # (queries,) bool, whether the answer is adversarial, wherever the point is
    adversarial: Tensor  # (queries,) bool, whether the point is in the ball and the answer adversarial

    def take(self, positions: Tensor) -> Queries:
        """Return some of the queries."""
        own = {name: value[positions] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Queries(self.attack, take(self.state, positions), **own)


@dataclass(frozen=True)
class Conclusion:
    """Conclusion of a success criterion from the evaluations of some candidates."""

    more: Tensor  # (rows,) int64, further evaluations that each candidate needs; 0 where the decision is final
    adversarial: Tensor  # (rows,) bool, whether the image counts as adversarial, where the decision is final


class SuccessCriterion(ABC):
    """Decides when an image counts as adversarial, by fresh evaluations that the attacker neither sees nor pays for.

    After every forward pass of queries, `candidates` selects the queries whose points are candidates. The engine makes
    `first_evaluations` fresh evaluations of each candidate and calls `conclude`, repeatedly while the criterion wants
    more. An adversarial candidate ends the attack on its image; after a rejected one, the attack continues.

    Args:
        final_evaluations: Most fresh evaluations of an image's final point and of its clean image.

    Attributes:
        final_test: The test of clean images and of final points, the same under every criterion.
    """

    reaches_verdict: ClassVar[bool] = False
    """Whether the evaluations of a success are final ones, where `final_test` decides by them.

    They have to be fresh from the start of the test on: `conclude` must not continue those by which it chose the
    candidate. Where `final_test` does not decide by them, final evaluations follow as after any other success.
    """

    def __init__(self, final_evaluations: int = 1500) -> None:
        self.final_test = MeanMarginTest(final_evaluations)

    def check(self, attack: Attack) -> None:  # noqa: B027  most criteria accept every attack
        """Raise a UserError if the criterion is not defined for an attack; by default, never."""

    def open(self, y: Tensor) -> Any:
        """Return the criterion's own state of new images with the labels `y`: later `ImageState.criterion`.

        It is a dictionary or a dataclass of tensors with one row per image, by default empty.
        """
        return {}

    def candidates(self, queries: Queries, images: ImageState) -> Tensor:
        """Return the positions, (candidates,) int64, of the queries whose points are candidates.

        By default, all with an adversarial answer in the ball.
        """
        return queries.adversarial.nonzero()[:, 0]

    def points(self, candidates: Queries) -> Tensor | None:
        """Return the points to evaluate, (candidates, C, H, W), or by default None for the points of the queries."""
        return None

    @abstractmethod
    def first_evaluations(self, attack: Attack) -> int:
        """Return how many fresh evaluations a candidate gets first; 0 if it counts as adversarial without any."""

    def conclude(self, images: ImageState, rows: Tensor) -> Conclusion:
        """Decide on the candidates of some images whose requested evaluations are complete, by default by majority.

        A criterion that reads the evidence of `images.evaluations` calls its `bet` after each look, as
        `MeanMarginTest.request` does, since evaluations without stakes are no evidence. `restart` drops the evaluations
        so far. The next ones are `Conclusion.more`, whatever `restart` requests. For a deterministic victim, one
        evaluation replaces this method.

        Args:
            images: The state of all images; `images.evaluations` holds the sums over the evaluations. The criterion may
                count in `images.candidates`.
            rows: (rows,) int64, the rows of the images.
        """
        return majority(images, rows)


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

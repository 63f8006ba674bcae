"""State of the images in the pool: groups of tensors with one row per image."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from torch import Tensor

from rfdlight.core.tensors import Columns
from rfdlight.engine.evaluations import EvaluationState
from rfdlight.engine.ledger import QueryCounts


class Phase(IntEnum):
    """What an image in the pool waits for."""

    CLEAN = 0
    """Fresh evaluations of its clean image."""
    ATTACK = 1
    """Its next query."""
    CANDIDATE = 2
    """Fresh evaluations of a candidate."""
    FINAL = 3
    """Fresh evaluations of its final point."""


@dataclass
class PointState:
    """The point of each image that the success criterion evaluates: clean image, candidate or final point.

    Attributes:
        phase: (rows,) int64, see `Phase`.
        point: (rows, C, H, W).
        clock: (rows,) int64, queries billed before the point was submitted.
        billed: (rows,) int64, queries billed including it.
        known: (rows,) bool, whether a deterministic victim has answered the point before.
        logits: (rows, classes), its answer.
    """

    phase: Tensor
    point: Tensor
    clock: Tensor
    billed: Tensor
    known: Tensor
    logits: Tensor


@dataclass
class CandidateState:
    """What became of each image's candidates, (rows,) int64 each.

    Attributes:
        candidates: Queries in the ball with an adversarial answer.
        voted_candidates: Candidates that got fresh evaluations.
        tested_candidates: Candidates that got a statistical test.
        success_query: Queries billed at success, or -1.
        first_9_vote_success: Queries billed at the first candidate with a majority of 9 votes, or -1.
    """

    candidates: Tensor
    voted_candidates: Tensor
    tested_candidates: Tensor
    success_query: Tensor
    first_9_vote_success: Tensor


@dataclass
class CleanState:
    """Results of the fresh evaluations of each clean image, (rows,) each."""

    clean_evaluations: Tensor
    clean_wrong: Tensor
    clean_margin: Tensor
    clean_prediction: Tensor


@dataclass
class ImageState:
    """All tensors of the images in the pool, grouped in dictionaries and dataclasses.

    Attributes:
        shared: Columns that every attack may read, see `rfdlight.attacks.base.Attack`.
        attack: The attack's own columns.
        criterion: The success criterion's own state, a dictionary or a dataclass of tensors.
        counts: Query counts.
        points: The points under evaluation.
        evaluations: Sums over the evaluations of these points.
        candidates: What became of the candidates.
        clean: Results at the clean images.
    """

    shared: Columns
    attack: Columns
    criterion: Any
    counts: QueryCounts
    points: PointState
    evaluations: EvaluationState
    candidates: CandidateState
    clean: CleanState

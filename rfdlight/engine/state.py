"""State of the images in the pool: groups of tensors with one row per image, and the record of an image."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

import torch
from torch import Tensor

from rfdlight.core.norms import norm
from rfdlight.core.tensors import Columns
from rfdlight.engine.evaluations import EvaluationState, MeanMarginTest, Verdict, majority_verdict
from rfdlight.engine.ledger import QueryCounts
from rfdlight.records.records import CleanVerdict, InterimEvaluation, Record

_OR_NONE = ("success_query", "first_9_vote_success", "first_detected")
"""Fields of a record that are None where the state holds -1."""

_VERDICTS: dict[int, Verdict] = {1: "adversarial", -1: "robust", 0: "undecided"}
_CLEAN_VERDICTS: dict[int, CleanVerdict] = {1: "wrong", -1: "right", 0: "undecided"}


class Phase(IntEnum):
    """What an image in the pool waits for."""

    CLEAN = 0  # fresh evaluations of its clean image
    ATTACK = 1  # its next query
    CANDIDATE = 2  # fresh evaluations of a candidate
    INTERIM = 3  # fresh evaluations of the point that the attack would submit
    FINAL = 4  # fresh evaluations of its final point


@dataclass
class PointState:
    """The point of each image that is evaluated: clean image, candidate, would-be submission or final point."""

    phase: Tensor  # (rows,) int64, see `Phase`
    point: Tensor  # (rows, C, H, W)
    clock: Tensor  # (rows,) int64, queries billed before the point was submitted
    billed: Tensor  # (rows,) int64, queries billed including it
    known: Tensor  # (rows,) bool, whether a deterministic victim has answered the point before
    logits: Tensor  # (rows, classes), its answer


@dataclass
class CandidateState:
    """What became of each image's candidates, (rows,) int64 each."""

    candidates: Tensor  # queries in the ball with an adversarial answer
    voted_candidates: Tensor  # candidates that got fresh evaluations
    tested_candidates: Tensor  # candidates that got a statistical test
    success_query: Tensor  # queries billed at success, or -1
    first_9_vote_success: Tensor  # queries billed at the first candidate with a majority of 9 votes, or -1


@dataclass
class CleanState:
    """Results of the fresh evaluations of each clean image, (rows,) each."""

    clean_evaluations: Tensor
    clean_wrong: Tensor
    clean_margin: Tensor
    clean_prediction: Tensor
    clean_verdict: Tensor  # int64, 1 for wrong, -1 for right, 0 for undecided


@dataclass
class InterimState:
    """Results of each image's interim evaluations: (rows, most) where not said otherwise, in order of the queries."""

    passed: Tensor  # (rows,) int64, interim queries that the image has reached
    point: Tensor  # (rows, C, H, W), the last evaluated submission, at first the clean image; C = 0 where none follow
    queries: Tensor  # int64, queries billed
    evaluations: Tensor  # int64, 0 where the point was not evaluated
    margin: Tensor  # float64, of the mean logits
    verdict: Tensor  # int64, 1 for adversarial, -1 for robust, 0 for undecided

    @classmethod
    def open(cls, x: Tensor, most: int) -> Self:
        """Return the state of new images with the pixels `x` and at most `most` interim evaluations each."""
        counts = torch.zeros(len(x), most, dtype=torch.int64, device=x.device)
        return cls(counts.sum(1), x if most else x[:, :0], counts, counts, counts.double(), counts)

    def results(self, row: int) -> tuple[InterimEvaluation, ...]:
        """Return the interim evaluations of an image."""
        columns = (self.queries, self.evaluations, self.margin, self.verdict)
        return tuple(
            InterimEvaluation(queries=queries, evaluations=made, margin=margin, verdict=_VERDICTS[verdict])
            for queries, made, margin, verdict in zip(*(column[row].tolist() for column in columns), strict=True)
            if made
        )


@dataclass
class DetectionState:
    """What a query policy has detected of each image's attack, (rows,) each."""

    detected: Tensor  # int64, queries
    first_detected: Tensor  # int64, queries billed including the first of them, or -1
    ended: Tensor  # bool, whether a refusal has ended the attack


@dataclass
class ImageState:
    """All tensors of the images in the pool, grouped in dictionaries and dataclasses."""

    shared: Columns  # columns that every attack may read, see `rfdlight.attacks.base.Attack`
    attack: Columns  # the attack's own columns
    criterion: Any  # the success criterion's own state, a dictionary or a dataclass of tensors
    counts: QueryCounts
    points: PointState
    evaluations: EvaluationState
    candidates: CandidateState
    clean: CleanState
    interim: InterimState
    detection: DetectionState


def describe(image_id: str, images: ImageState, row: int, billed: int, test: MeanMarginTest) -> Record:
    """Return the record of the image in a row, with its billed queries; `test` is that of its final point."""
    rows = torch.tensor([row], device=images.counts.attack.device)
    evaluations, shared = images.evaluations, images.shared
    point = images.points.point[rows]
    delta = point - shared["x"][rows]
    label, target = int(shared["y"][row]), int(shared["target"][row])
    counts: dict[str, Any] = {kind: int(column[row]) for kind, column in vars(images.counts).items()}
    events = {**vars(images.candidates), **vars(images.detection)}
    candidates: dict[str, Any] = {name: int(column[row]) for name, column in events.items() if name != "ended"}
    candidates |= {name: None for name in _OR_NONE if candidates[name] < 0}
    clean: dict[str, Any] = {name: column[row].item() for name, column in vars(images.clean).items()}
    clean["clean_verdict"] = _CLEAN_VERDICTS[clean["clean_verdict"]]
    verdict = _VERDICTS[int(test.decide(evaluations, rows))]
    return Record(
        id=image_id,
        label=label,
        target=None if target < 0 else target,
        **counts,
        billed=billed,
        **candidates,
        **clean,
        final_evaluations=int(evaluations.count[row]),
        final_adversarial=int(evaluations.adversarial[row]),
        final_margin=float(evaluations.mean_margin(rows)),
        final_prediction=int(evaluations.mean_label(rows)),
        final_tail_share=float(evaluations.tail_share(rows)),
        verdict="misclassified" if clean["clean_verdict"] == "wrong" else verdict,
        majority_verdict=majority_verdict(int(evaluations.adversarial[row]), int(evaluations.count[row])),
        linf=float(norm(delta, "linf")),
        l2=float(norm(delta, "l2")),
        low=float(point.min()),
        high=float(point.max()),
        interim=images.interim.results(row),
    )

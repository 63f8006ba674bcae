"""Record of a finished image."""

from __future__ import annotations

from typing import Any

import torch

from rfdlight.core.norms import norm
from rfdlight.engine.evaluations import MeanMarginTest, Verdict, majority_verdict
from rfdlight.engine.state import ImageState
from rfdlight.records.records import CleanVerdict, Record

_OR_NONE = ("success_query", "first_9_vote_success")
"""Fields that are None where the state holds -1."""

_VERDICTS: dict[int, Verdict] = {1: "adversarial", -1: "robust", 0: "undecided"}
_CLEAN_VERDICTS: dict[int, CleanVerdict] = {1: "wrong", -1: "right", 0: "undecided"}


def describe(image_id: str, images: ImageState, row: int, billed: int, test: MeanMarginTest) -> Record:
    """Return the record of a finished image; `rfdlight.records.records` documents the fields.

    Args:
        image_id: Id of the image.
        images: The state of all images.
        row: Row of the image.
        billed: Queries billed to the image.
        test: The test of its final point.
    """
    rows = torch.tensor([row], device=images.counts.attack.device)
    evaluations, shared = images.evaluations, images.shared
    point = images.points.point[rows]
    delta = point - shared["x"][rows]
    label, target = int(shared["y"][row]), int(shared["target"][row])
    candidates: dict[str, Any] = {name: int(column[row]) for name, column in vars(images.candidates).items()}
    candidates |= {name: None for name in _OR_NONE if candidates[name] < 0}
    clean: dict[str, Any] = {name: column[row].item() for name, column in vars(images.clean).items()}
    clean["clean_verdict"] = _CLEAN_VERDICTS[clean["clean_verdict"]]
    verdict = _VERDICTS[int(test.decide(evaluations, rows))]
    return Record(
        id=image_id,
        label=label,
        target=None if target < 0 else target,
        **{kind: int(column[row]) for kind, column in vars(images.counts).items()},
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
    )

"""What is written down of an image when it is finished."""

from __future__ import annotations

from torch import Tensor

from rfdlight.core.norms import norm
from rfdlight.core.tensors import Columns
from rfdlight.engine.criterion import SuccessCriterion
from rfdlight.records.records import Record


def describe(image_id: str, columns: Columns, one: Tensor, billed: int, criterion: SuccessCriterion) -> Record:
    """Return the record of a finished image; `rfdlight.records.records` documents the fields.

    Args:
        image_id: Of the image.
        columns: Of the pool.
        one: (1,) int64, its row.
        billed: Queries billed to it.
        criterion: Whose verdict it gets.
    """
    row = int(one)
    delta = columns["point"][one] - columns["x"][one]

    def count(name: str) -> int:
        return int(columns[name][row])

    def or_none(name: str) -> int | None:
        return None if count(name) < 0 else count(name)

    attacked = count("clean_prediction") == count("y")
    return Record(
        id=image_id,
        label=count("y"),
        target=or_none("target"),
        attack=count("attack"),
        gradient=count("gradient"),
        success_check=count("success_check"),
        criterion=count("criterion"),
        billed=billed,
        candidates=count("candidates"),
        voted_candidates=count("voted_candidates"),
        tested_candidates=count("tested_candidates"),
        success_query=or_none("success_query"),
        first_9_vote_success=or_none("first_9_vote_success"),
        clean_evaluations=count("clean_evaluations"),
        clean_wrong=count("clean_wrong"),
        clean_margin=float(columns["clean_margin"][row]),
        clean_prediction=count("clean_prediction"),
        final_evaluations=count("draws"),
        final_adversarial=count("wrong"),
        final_margin=float(criterion.mean_margin(columns, one)),
        final_prediction=int(criterion.mean_label(columns, one)),
        verdict=criterion.verdict(columns, row) if attacked else "misclassified",
        linf=float(norm(delta, "linf")),
        l2=float(norm(delta, "l2")),
        low=float(columns["point"][row].min()),
        high=float(columns["point"][row].max()),
    )

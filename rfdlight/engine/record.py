"""What is written down of an image when it is finished."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rfdlight.core.norms import norm
from rfdlight.core.tensors import Columns
from rfdlight.engine.criterion import Judge

Record = dict[str, Any]


def describe(image_id: str, columns: Columns, one: Tensor, billed: int, judge: Judge) -> Record:
    """Return the record of a finished image; `rfdlight.records.records` documents the fields.

    Args:
        image_id: Of the image.
        columns: Of the pool.
        one: (1,) int64, its row.
        billed: Queries billed to it.
        judge: Whose verdict it gets.
    """
    row = int(one)
    delta = columns["point"][one] - columns["x"][one]

    def count(name: str) -> int:
        return int(columns[name][row])

    def or_none(name: str) -> int | None:
        return None if count(name) < 0 else count(name)

    attacked = count("clean_prediction") == count("y")
    return {
        "id": image_id,
        "label": count("y"),
        "target": or_none("target"),
        "attack": count("attack"),
        "gradient": count("gradient"),
        "observe": count("observe"),
        "judge": count("judge"),
        "billed": billed,
        "candidates": count("candidates"),
        "votings": count("votings"),
        "tests": count("tests"),
        "broken_at": or_none("broken_at"),
        "first_screen9": or_none("first_screen9"),
        "clean_draws": count("clean_draws"),
        "clean_wrong": count("clean_wrong"),
        "clean_margin": float(columns["clean_margin"][row]),
        "clean_prediction": count("clean_prediction"),
        "final_draws": count("draws"),
        "final_wrong": count("wrong"),
        "final_margin": float(judge.mean_margin(columns, one)),
        "final_prediction": int(judge.mean_label(columns, one)),
        "verdict": judge.verdict(columns, row) if attacked else "misclassified",
        "linf": float(norm(delta, "linf")),
        "l2": float(norm(delta, "l2")),
        "low": float(columns["point"][row].min()),
        "high": float(columns["point"][row].max()),
    }

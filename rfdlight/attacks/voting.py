"""Majority votes over several decisions of the victim at one point."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.core.tensors import Columns
from rfdlight.errors import UserError


def check_odd(name: str, votes: int) -> None:
    """Raise a UserError for a number of votes that could tie."""
    if votes < 1 or votes % 2 == 0:
        raise UserError(f"attack.{name} must be odd and at least 1, got {votes}")


def open_votes(y: Tensor) -> Columns:
    """Return the columns of a vote: `ballots` and `hits` so far, (rows,) int64."""
    return {"ballots": torch.zeros_like(y), "hits": torch.zeros_like(y)}


def cast_vote(state: Columns, adversarial: Tensor, votes: int | Tensor) -> tuple[Tensor, Tensor]:
    """Count one decision per row, and close the votes whose majority is certain.

    On a deterministic victim a vote takes (votes + 1) / 2 decisions. Undecided rows have to query the same point again.

    Args:
        state: With the columns of `open_votes`.
        adversarial: (rows,) bool, whether the decision is adversarial.
        votes: Largest number of decisions, odd, one number or one per row.

    Returns:
        Which rows are decided, and the outcomes of decided rows, (rows,) bool each.
    """
    ballots, hits = state["ballots"] + 1, state["hits"] + adversarial
    majority = votes // 2 + 1
    outcome = hits >= majority
    decided = outcome | (ballots - hits >= majority)
    state["ballots"] = torch.where(decided, 0, ballots)
    state["hits"] = torch.where(decided, 0, hits)
    return decided, outcome

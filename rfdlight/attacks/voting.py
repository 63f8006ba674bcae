"""Decisions of attacks that read labels, by a majority of several answers at one point."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.core.tensors import Columns
from rfdlight.errors import UserError


def check_odd(name: str, votes: int) -> None:
    """Refuse numbers of votes that could tie.

    Raises:
        UserError: If `votes` is not odd and positive.
    """
    if votes < 1 or votes % 2 == 0:
        raise UserError(f"attack.{name} must be odd and at least 1, got {votes}")


def open_votes(y: Tensor) -> Columns:
    """Return the columns of a vote: `ballots` and `hits` so far, (rows,) int64."""
    return {"ballots": torch.zeros_like(y), "hits": torch.zeros_like(y)}


def cast_vote(state: Columns, hit: Tensor, votes: int | Tensor) -> tuple[Tensor, Tensor]:
    """Count one answer per row, and close the votes that it decides.

    A vote ends as soon as its majority is certain, so on a deterministic victim it takes (votes + 1) / 2
    answers. Rows that are not decided have to ask the same point again.

    Args:
        state: With the columns of `open_votes`.
        hit: (rows,) bool, whether the answer is what the attacker wants.
        votes: Answers at most, odd, one number or one per row.

    Returns:
        Which rows are decided, and the outcome of those, (rows,) bool each.
    """
    ballots, hits = state["ballots"] + 1, state["hits"] + hit
    majority = votes // 2 + 1
    outcome = hits >= majority
    decided = outcome | (ballots - hits >= majority)
    state["ballots"] = torch.where(decided, 0, ballots)
    state["hits"] = torch.where(decided, 0, hits)
    return decided, outcome

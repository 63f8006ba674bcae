"""What attacks do where a query policy refuses to answer: each refusal doubles a size of the queries."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from rfdlight.errors import unknown_name

OnRefusal = Literal["end", "adapt"]
"""What an attack does where a query policy refuses to answer: it ends, or it goes on with queries that differ more."""

_MOST_DOUBLINGS = 6
_RETURN = 1 / 8
"""Share of a doubling that each answer takes back."""


def check_on_refusal(on_refusal: str) -> None:
    """Raise a UserError unless an option is one of `OnRefusal`."""
    if on_refusal not in get_args(OnRefusal):
        raise unknown_name("attack.on_refusal", on_refusal, get_args(OnRefusal))


def doubled(doublings: Tensor, refused: Tensor | Literal[1] = 1) -> Tensor:
    """Return the binary logarithm of a size after a query, (rows,): one more where it was `refused`, at most 6."""
    return (doublings + refused).clamp_max(_MOST_DOUBLINGS)


def taken_back(doublings: Tensor, answered: Tensor | Literal[1] = 1) -> Tensor:
    """Return the binary logarithm of a size after a query, (rows,): an eighth less where it was `answered`."""
    return (doublings - _RETURN * answered).clamp_min(0)

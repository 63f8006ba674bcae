"""Requirement of a check: an assertion that python -O does not remove."""

from torch import Tensor


def require(condition: bool | Tensor, message: str) -> None:
    """Raise an AssertionError with a message if a condition does not hold."""
    if not bool(condition):
        raise AssertionError(message)

"""Noise of a victim's answers, measured by repeated queries at the first point of an attack."""

from torch import Tensor

_REPEATS = 5  # answers at the first point of a random victim
_VARYING = 1e-3  # relative deviation, far above rounding


def answers_vary(variance: Tensor, mean: Tensor) -> Tensor:
    """Return the rows whose victim answers at random, from variance and mean of the loss at one point, (rows,) bool."""
    return variance.sqrt() > _VARYING * mean.abs()


def is_measured(answers: Tensor, variance: Tensor, mean: Tensor) -> Tensor:
    """Return the rows with enough answers at the first point, (rows,) bool: 5, or 2 where these do not vary."""
    return (answers >= _REPEATS) | ((answers >= 2) & ~answers_vary(variance, mean))

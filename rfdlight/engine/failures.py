"""Errors of a forward pass: the victim fails, is random, or memory runs out."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight.errors import Unreachable, UserError, one_line


class VictimError(UserError):
    """The victim raised, or answered NaN or infinity.

    The message is shown if the run ends, the reason for a single image. `rows`, (rows,) bool, are those of the pass
    that failed, if they are known. `together` says that no image is the cause, so that all rows of the pass failed.
    """

    def __init__(self, message: str, reason: str, rows: Tensor | None = None, together: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.rows = rows
        self.together = together


class OutOfMemory(UserError):  # noqa: N818  an event that the run survives, as in torch's own name
    """A forward pass did not fit into memory; the next ones are smaller."""


class RandomVictim(UserError):  # noqa: N818  an event that the run survives
    """A victim that was expected to be deterministic answered a point of the image `image_id` differently."""

    def __init__(self, image_id: str) -> None:
        super().__init__(f"the victim is random: it answered the same point of {image_id} differently")
        self.image_id = image_id


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an exception means that memory ran out, on any device."""
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def raised(error: Exception) -> VictimError:
    """Return the error for a pass in which the victim raised."""
    if isinstance(error, UserError):  # its message is written for the user
        return VictimError(str(error), one_line(error), together=isinstance(error, Unreachable))
    first_line = next(iter(str(error).strip().splitlines()), "")
    reason = one_line(f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__)
    return VictimError(f"the victim raised {reason}", reason)


def check_finite(values: Tensor, what: str, advice: str) -> None:
    """Raise a VictimError with the rows of values (rows, ...) that are NaN or infinite, if there are any.

    `what` is the reason for an image; `advice` is added if the run ends.
    """
    finite = torch.isfinite(values)
    if not finite.all():
        raise VictimError(f"{what}; {advice}", what, ~finite.flatten(1).all(1))

"""What an attack is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rfdlight.errors import UserError
from rfdlight.norms import Norm
from rfdlight.tensors import Columns
from rfdlight.threat import ThreatModel


class Attack(ABC):
    """A query-based attack on many images at once, one query per image and tick.

    An attack never sees the victim. The engine calls `init` once per image, then in turn `ask` for
    the next point of each row and `tell` with the victim's answer. Rows belong to different images
    at different stages; nothing may depend on which rows come together.

    All that an attack remembers is in its columns, the tensors that `init` returns: their names,
    dtypes and trailing shapes stay the same for life. `ask` and `tell` change them in `state`, in
    place or by assignment. Under any other name, `ask` may leave a value for the `tell` that follows
    it. The engine's own columns, which every state holds and no attack changes, are `x` (rows, C, H,
    W) the clean pixels, `y` (rows,) int64 the labels, `seed` (rows,) int64 the key of `rfdlight.rng`
    and `budget` (rows,) int64 the queries allowed.

    Args:
        eps: Radius in pixel units, > 0; by default the data set's reference radius.
        norm: Of the ball.

    Raises:
        UserError: If the attack is not defined for `norm`, or `eps` is not positive.
    """

    reads: ClassVar[Literal["labels", "scores"]]
    """"labels": `answer` is (rows,) int64; "scores": it is the raw logits, (rows, classes)."""
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    def __init__(self, eps: float | None = None, norm: Norm = "linf") -> None:
        if norm not in self.norms:
            known = " or ".join(self.norms)
            raise UserError(f"attack.norm of {type(self).__name__} must be {known}, got {norm}")
        self.norm = norm
        self.eps = eps
        if eps is not None:
            ThreatModel(norm, eps)

    @property
    def threat(self) -> ThreatModel:
        """The ball that the engine enforces.

        Raises:
            UserError: If `eps` was left open and no data set has set it.
        """
        if self.eps is None:
            raise UserError("attack.eps was not given and the data has no reference radius")
        return ThreatModel(self.norm, self.eps)

    @abstractmethod
    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        """Return the columns of new rows."""

    @abstractmethod
    def ask(self, state: Columns) -> Tensor:
        """Return the next point of each row, like `x`, within [0, 1]."""

    @abstractmethod
    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        """Learn the victim's answer at the points asked."""

    @abstractmethod
    def best(self, state: Columns) -> Tensor:
        """Return the point in the ball that the attack would submit if it ended now, like `x`."""

    def claims(self, state: Columns) -> Tensor:
        """Say which rows the answer just told makes the attack call broken, (rows,) bool.

        Only the paper's judge listens to it, after each `tell`. The default claims nothing.
        """
        return torch.zeros_like(state["y"], dtype=torch.bool)

    def unfinished(self, state: Columns) -> Tensor:
        """Say which rows are inside a step that the paper's code would end beyond its budget, (rows,) bool.

        Only the paper's accounting listens to it. The default is none.
        """
        return torch.zeros_like(state["y"], dtype=torch.bool)

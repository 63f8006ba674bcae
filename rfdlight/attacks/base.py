"""The base class of attacks, and checks of their numeric options."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self

from torch import Tensor

from rfdlight.core.arguments import Configurable, changed_arguments
from rfdlight.core.losses import Loss, attacker_loss
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns
from rfdlight.core.threat import ThreatModel
from rfdlight.errors import UserError, expect


def check_positive(**options: float | None) -> None:
    """Raise a UserError for an option that is neither None nor a positive finite number."""
    for name, value in options.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"attack.{name} must be a positive number, got {value}")


def check_count(**options: int | None) -> None:
    """Raise a UserError for an option that is neither None nor from 1 to 2^63 - 1, the largest number of a tensor."""
    for name, value in options.items():
        if value is not None and not 1 <= value < 2**63:
            raise UserError(f"attack.{name} must be {'at least 1' if value < 1 else 'less than 2^63'}, got {value}")


def check_side(x: Tensor, **options: int | None) -> None:
    """Raise a UserError for an option that is neither None nor at most the shorter side of images like `x`."""
    side = min(x.shape[2:])
    for name, value in options.items():
        fits = value is None or value <= side
        expect(fits, f"attack.{name}", f"at most {side}, the shorter side of the images", value, f"lower attack.{name}")


class Attack(Configurable, ABC):
    """Base class of query-based attacks in ask-and-tell form: many images at once, one query per image and tick.

    The engine calls `init` once per image, then in turn `ask` for the next point of each row and `tell` with the
    victim's answers. A row is one image. Rows are at different stages of their attacks, and no result may depend on
    which rows are processed together.

    `init` returns the attack's columns: tensors whose first dimension is the row, with everything that lasts from one
    tick to the next. Names, dtypes and trailing shapes never change. `ask` and `tell` change the columns in `state`, in
    place or by assignment. `ask` may leave values under other names for the `tell` of the same tick.

    The state also holds the engine's columns, which an attack must not change: `x` (rows, C, H, W), the clean images;
    `y` (rows,) int64, the labels; `target` (rows,) int64, the class of a targeted attack or -1; `seed` (rows,) int64,
    the key of `rfdlight.core.rng`; `budget` (rows,) int64, the query budget; and, for a targeted attack with
    `needs_starting_point`, `start` (rows, C, H, W), an image of the target class. The attack itself never changes.

    Args:
        eps: Radius of the ball in pixel units, > 0; by default, in linf, the data set's reference radius.
        norm: Norm of the ball; by default the first of the attack's `norms`.
        targeted: Whether the attack has to reach a target class, drawn once per image among the wrong ones; otherwise
            every wrong class is a success.

    Attributes:
        eot: Evaluations per query (expectation over transformation), which the engine averages.
        loss: Loss of the attacker, which score-based attacks lower.

    Raises:
        UserError: If an argument is out of range, or the attack has no such norm or no targeted form.
    """

    access: ClassVar[Literal["decision", "score", "gradient"]]
    """What `tell` receives, by the attacker's access.

    For "decision" these are labels, (rows,) int64, for "score" logits, (rows, classes), and for "gradient", white-box,
    the gradients of `objective` at the points, (rows, C, H, W).
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    has_targeted_form: ClassVar[bool] = False
    needs_starting_point: ClassVar[bool] = False
    """Whether the targeted form starts from an image of the target class."""

    eot: int = 1
    loss: Loss = "margin"

    def __init__(self, eps: float | None = None, norm: Norm | None = None, targeted: bool = False) -> None:
        norm = self.norms[0] if norm is None else norm
        if norm not in self.norms:
            known = " or ".join(self.norms)
            raise UserError(f"attack.norm of {type(self).__name__} must be {known}, got {norm}")
        if targeted and not self.has_targeted_form:
            raise UserError(f"{type(self).__name__} has no targeted form; leave attack.targeted at false")
        self.norm = norm
        self.eps = eps
        self.targeted = targeted
        if eps is not None:
            ThreatModel(norm, eps)

    @property
    def threat(self) -> ThreatModel:
        """The ball around the clean image, in which the engine counts successes; a UserError without a radius."""
        if self.eps is None:
            raise UserError("attack.eps was not given and the data has no reference radius")
        return ThreatModel(self.norm, self.eps)

    def configured(self, *, eps: float | None = None, eot: int | None = None) -> Self:
        """Return a copy with another radius, or with another number of evaluations per query."""
        configured = copy.copy(self)
        if eps is not None:
            configured.eps = ThreatModel(self.norm, eps).eps
        if eot is not None:
            configured.eot = eot
        return configured

    def extended_by(self, extension: type[Attack]) -> Attack:
        """Return a copy that has the methods of `extension`, a subclass of `Attack`, before its own."""
        direct = type(self) in extension.__bases__
        form: type[Attack] = extension if direct else type(extension.__name__, (extension, type(self)), {})
        extended: Attack = object.__new__(form)
        vars(extended).update(vars(self))
        return extended

    def is_adversarial(self, state: Columns, labels: Tensor) -> Tensor:
        """Return which labels are a success: the target if there is one, else every wrong label, (rows,) bool."""
        return labels == state["target"] if self.targeted else labels != state["y"]

    def objective(self, state: Columns, logits: Tensor) -> Tensor:
        """Return the loss that the attacker lowers, (rows,); see `rfdlight.core.losses.attacker_loss`."""
        return attacker_loss(logits, state["y"], state["target"] if self.targeted else None, self.loss)

    def options(self) -> str:
        """Return the constructor's arguments that differ from their defaults, without the ball, or "defaults"."""
        return ", ".join(changed_arguments(self, leave_out=("eps", "norm", "targeted"))) or "defaults"

    @abstractmethod
    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        """Return the attack's columns for new rows."""

    @abstractmethod
    def ask(self, state: Columns) -> Tensor:
        """Return the next point to query for each row, like `x`, within [0, 1]."""

    @abstractmethod
    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        """Update the columns with the victim's answers at the queried points."""

    @abstractmethod
    def best(self, state: Columns) -> Tensor:
        """Return the point in the ball that the attack submits if it ends now, like `x`."""

    def refused(self, state: Columns, points: Tensor) -> bool:
        """Update the columns where a query policy refused to answer the queried points; return whether to go on.

        Called after `ask` with the refused rows alone, in place of `tell`. By default the attack ends there.
        """
        return False

    def is_success_check(self, state: Columns) -> Tensor | None:
        """Return, between `ask` and `tell`, which queries only show whether the attack has succeeded, (rows,) bool.

        By default None: no query of the attack does.
        """
        return None

    def budget_warning(self, budget: int) -> str | None:
        """Return one line if the budget, in evaluations per image, is too small for the options, else None."""
        return None

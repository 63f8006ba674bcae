"""What an attack is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rfdlight.core.arguments import Configurable, changed_arguments
from rfdlight.core.losses import Loss, attacker_loss
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns
from rfdlight.core.threat import ThreatModel
from rfdlight.errors import UserError


class Attack(Configurable, ABC):
    """A query-based attack on many images at once, one query per image and tick.

    An attack never sees the victim. The engine calls `init` once per image, then in turn `ask` for
    the next point of each row and `tell` with the victim's answer. Rows belong to different images
    at different stages; nothing may depend on which rows come together.

    All that an attack remembers is in its columns, the tensors that `init` returns: their names,
    dtypes and trailing shapes stay the same for life. `ask` and `tell` change them in `state`, in
    place or by assignment. Under any other name, `ask` may leave a value for the `tell` that follows
    it. The engine's own columns, which every state holds and no attack changes, are `x` (rows, C, H,
    W) the clean pixels, `y` (rows,) int64 the labels, `target` (rows,) int64 the class to be reached
    or -1, `seed` (rows,) int64 the key of `rfdlight.core.rng`, `budget` (rows,) int64 the queries allowed
    and, for a targeted attack that `needs_starting_point`, `start` (rows, C, H, W), an image of the target class.

    Args:
        eps: Radius in pixel units, > 0; by default, in linf, the data set's reference radius.
        norm: Of the ball; by default linf where the attack knows it, else l2.
        targeted: Whether one class, drawn once per image among the wrong ones, has to be reached;
            else any wrong class will do.

    Attributes:
        query_counting: The engine's. Under "paper", an attack also clips and wastes queries as the paper's code.
        repeats: Evaluations per query, which the engine averages; set by it.
        loss: What an attack that reads scores lowers.

    Raises:
        UserError: If the attack is not defined for `norm` or has no targeted form, or `eps` is not positive.
    """

    access: ClassVar[Literal["decision", "score", "gradient"]]
    """"labels": `answer` is (rows,) int64; "scores": it is the raw logits, (rows, classes); "gradients": it is
    the gradient of `objective` at the points, (rows, C, H, W), which only a white-box attacker has."""
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    has_targeted_form: ClassVar[bool] = False
    needs_starting_point: ClassVar[bool] = False
    """Whether the targeted form starts from an image of the target class."""

    paper_votes: ClassVar[bool] = False
    """Whether the paper's criterion confirms its claims by votes although it reads labels."""

    query_counting: Literal["exact", "paper"] = "exact"
    repeats: int = 1
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
        """The ball that the engine enforces.

        Raises:
            UserError: If `eps` was left open and no data set has set it.
        """
        if self.eps is None:
            raise UserError("attack.eps was not given and the data has no reference radius")
        return ThreatModel(self.norm, self.eps)

    def is_adversarial(self, state: Columns, labels: Tensor) -> Tensor:
        """Say which labels are what the attacker wants: the target, or any but the right one, (rows,) bool."""
        return torch.where(state["target"] >= 0, labels == state["target"], labels != state["y"])

    def objective(self, state: Columns, logits: Tensor) -> Tensor:
        """Return what the attacker lowers, (rows,); see `rfdlight.core.losses.attacker_loss`."""
        return attacker_loss(logits, state["y"], state["target"], self.loss)

    def options(self) -> str:
        """Return the constructor's arguments that are not at their defaults, without the ball, or "defaults"."""
        return ", ".join(changed_arguments(self, leave_out=("eps", "norm", "targeted"))) or "defaults"

    @abstractmethod
    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        """Return the columns of new rows."""

    @abstractmethod
    def ask(self, state: Columns) -> Tensor:
        """Return the next point of each row, like `x`, within [0, 1].

        Under the paper's query counting, points may leave [0, 1] where the paper's code lets them.
        """

    @abstractmethod
    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        """Learn the victim's answer at the points asked."""

    @abstractmethod
    def best(self, state: Columns) -> Tensor:
        """Return the point in the ball that the attack would submit if it ended now, like `x`."""

    def budget_warning(self, budget: int) -> str | None:
        """Return one line that a user should know before the budget is spent, or None."""
        return None

    def is_success_check(self, state: Columns) -> Tensor:
        """Say which points just asked only tell the attacker whether it has finished, (rows,) bool.

        Called between `ask` and `tell`. Exact query counting bills them; under the paper's they are the
        evaluator's, and free. The default is none.
        """
        return torch.zeros_like(state["y"], dtype=torch.bool)

    def reports_success(self, state: Columns) -> Tensor:
        """Say which rows the answer just told makes the attack call broken, (rows,) bool.

        Only the paper's criterion listens to it, after each `tell`. The default claims nothing.
        """
        return torch.zeros_like(state["y"], dtype=torch.bool)

    def paper_billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        """Return what the paper's code would have billed, (rows,) int64; the default is `evaluated`.

        Args:
            state: Between two queries.
            evaluated: (rows,) int64, the evaluations so far that were not the evaluator's.
        """
        return evaluated

    def paper_ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        """Say which rows the paper's code would stop now because their budget is spent, (rows,) bool.

        Its loops look at the budget between steps, so that the last step may exceed it. The default
        ends as soon as the budget is billed.
        """
        return self.paper_billed(state, evaluated) >= state["budget"]

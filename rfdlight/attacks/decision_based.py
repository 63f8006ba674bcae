"""Base classes and steps that decision-based attacks share: phases, bisection, nearest point, repeated queries."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack, check_count
from rfdlight.core import rng
from rfdlight.core.tensors import Columns, per_row, take

# Share of the segment at which the bisection of a starting point stops, in HSJA's and Boundary's code: 10 queries.
BLEND_GAP = 1e-3

# Returns the points of rows that are all in one phase; values that it assigns are kept for `Tell`.
Ask = Callable[[Columns], Tensor]
# Gets such rows, their points and whether these were adversarial, (rows,) bool; assigns new values to columns.
Tell = Callable[[Columns, Tensor, Tensor], None]
Phases = tuple[tuple[Ask, Tell], ...]


class PhasedAttack(Attack):
    """Base class of decision-based attacks whose column `phase`, (rows,) int64, numbers the pairs of `phases`."""

    access = "decision"

    @abstractmethod
    def phases(self) -> Phases:
        """Return the methods of each phase: for its points and for their answers."""

    def ask(self, state: Columns) -> Tensor:
        points = torch.empty_like(state["x"])
        for (build, _), rows, own in self._by_phase(state):
            if own is state:
                return build(state)
            before = dict(own)
            points[rows] = build(own)
            for name, value in own.items():
                if value is not before.get(name):  # left for `tell`; those of an earlier tick may still be there
                    left = state.setdefault(name, value.new_zeros(len(points), *value.shape[1:]))
                    left[rows] = value
        return points

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        adversarial = self.is_adversarial(state, answer)
        for (_, handle), rows, own in self._by_phase(state):
            if own is state:
                handle(state, points, adversarial)
                return
            before = dict(own)
            handle(own, points[rows], adversarial[rows])
            for name, value in own.items():
                if value is not before[name]:
                    state[name][rows] = value

    def _by_phase(self, state: Columns) -> Iterator[tuple[tuple[Ask, Tell], Tensor, Columns]]:
        """Yield the methods of each phase that has rows, their numbers and columns: a copy, or `state` for all rows."""
        phase = state["phase"].clone()
        for number, methods in enumerate(self.phases()):
            rows = (phase == number).nonzero()[:, 0]
            if len(rows):
                yield methods, rows, state if len(rows) == len(phase) else take(state, rows)


class NearestPointAttack(PhasedAttack):
    """Base class of phased attacks that submit the nearest adversarial point, and bisect segments from x to `far`."""

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        real = torch.zeros_like(y, dtype=torch.float64)
        return {
            "phase": torch.zeros_like(y),
            "nearest": x.clone(),  # before the first adversarial point, the last point
            "distance": torch.full_like(y, torch.inf, dtype=x.dtype),  # of the nearest adversarial point from x
            "far": x.clone(),
            "low": real,  # the bracket of the bisection, in shares of the segment
            "high": real + 1,
        }

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        self.keep_nearest(state, points, self.is_adversarial(state, answer))
        super().tell(state, points, answer)

    def keep_nearest(self, state: Columns, points: Tensor, adversarial: Tensor) -> None:
        """Keep the adversarial point nearest to x, and before the first one the last point."""
        distance = self.threat.distance(state["x"], points)
        nearer = adversarial & (distance < state["distance"])
        kept = nearer | state["distance"].isinf()
        state["nearest"] = torch.where(per_row(kept, points), points, state["nearest"])
        state["distance"] = torch.where(nearer, distance, state["distance"])

    def best(self, state: Columns) -> Tensor:
        return self.threat.admit(state["x"], state["nearest"])

    @staticmethod
    def halfway(state: Columns) -> Tensor:
        """Return the points at the middle of the brackets."""
        return along(state, middle(state)).clamp_(0, 1)

    def starting_point(self, state: Columns, stream: int) -> Tensor:
        """Return the image of the target class, or for an untargeted attack the next uniform noise, like `x`."""
        x = state["x"]
        if self.targeted:
            return state["start"].clone()
        return rng.uniform(state["seed"], stream, state["draws"], x[0].numel()).to(x.dtype).view(x.shape)


def middle(state: Columns) -> Tensor:
    """Return the middle of each bracket, (rows,) float64."""
    return (state["low"] + state["high"]) / 2


def halve(state: Columns, adversarial: Tensor) -> Tensor:
    """Move the upper end of each bracket to its middle if that was adversarial, else the lower end; return widths."""
    share = middle(state)
    state["high"] = torch.where(adversarial, share, state["high"])
    state["low"] = torch.where(adversarial, state["low"], share)
    return state["high"] - state["low"]


def begin_bisection(state: Columns, points: Tensor, rows: Tensor) -> None:
    """Set the segments of `rows`, (rows,) bool, to those from x to `points`, and their brackets to [0, 1]."""
    state["far"] = torch.where(per_row(rows, points), points, state["far"])
    state["low"] = state["low"].masked_fill(rows, 0.0)
    state["high"] = state["high"].masked_fill(rows, 1.0)


def along(state: Columns, share: Tensor) -> Tensor:
    """Return the points at a share, (rows,), of the segments from x to `far`, not clipped."""
    x = state["x"]
    return (state["far"] - x).mul_(per_row(share.to(x.dtype), x)).add_(x)


class RepeatingAttack(Attack):
    """Base class of decision-based attacks that repeat an adversarial query in the ball until such answers lead.

    A point in the ball is adversarial once its adversarial answers lead the others by `lead`, and it is not once the
    others lead; anywhere else the first answer decides. If an answer is adversarial with probability p < 1/2, and
    r = (1 - p) / p, the point passes with probability (r - 1) / (r^(lead + 1) - 1). It takes `lead` answers on average
    at p = 1/2, fewer below, and one for most points that are clearly right. A deterministic victim ends the attack at
    the first adversarial answer in the ball, so nothing is repeated there.
    """

    access = "decision"

    def __init__(self, lead: int, **ball: Any) -> None:
        super().__init__(**ball)
        check_count(lead=lead)
        self.lead = lead

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {"balance": torch.zeros_like(y)}  # adversarial answers to the open decision less the others

    def decide(self, state: Columns, points: Tensor, adversarial: Tensor) -> tuple[Tensor, Tensor]:
        """Count one answer per row; return the decided rows, and which of these are adversarial, (rows,) bool each.

        Undecided rows have to query the same point again.
        """
        balance = state["balance"]
        balance.add_(adversarial, alpha=2).sub_(1)
        repeated = self.lead > 1
        passed = balance >= (torch.where(self.threat.contains(state["x"], points), self.lead, 1) if repeated else 1)
        decided = passed | (balance < 0)
        balance.masked_fill_(decided, 0)
        return decided, passed

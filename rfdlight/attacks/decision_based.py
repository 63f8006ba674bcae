"""Base classes and steps that decision-based attacks share: phases, bisection, the nearest point, and votes."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack, check_count
from rfdlight.core import rng
from rfdlight.core.tensors import Columns, per_row, take
from rfdlight.errors import UserError

# Share of the segment at which the bisection of a starting point stops, in HSJA's and Boundary's code: 10 queries.
BLEND_GAP = 1e-3

_TRIALS = 16  # decisions that show whether answers differ
_TRIAL_LEAD = 2
_MOST_PER_LEAD = 6  # a decision takes at most this times the lead less 1, an odd number of answers

# Returns the points of rows that are all in one phase; new entries of the state are kept for `Tell`.
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
            known = set(own)
            points[rows] = build(own)
            for name in own.keys() - known:  # left for `tell`
                left = state.setdefault(name, own[name].new_zeros(len(points), *own[name].shape[1:]))
                left[rows] = own[name]
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


class VotedAttack(Attack):
    """Base class of decision-based attacks that repeat a query until one kind of answer leads by `lead`.

    Until two answers at one point differ, the victim may be deterministic: the first 16 decisions need a lead of 2, and
    later ones a lead of 1. So a deterministic victim costs at most 16 answers more than with a lead of 1.
    """

    access = "decision"

    def __init__(self, lead: int, verify: int, **ball: Any) -> None:
        super().__init__(**ball)
        check_count(lead=lead)
        if verify and (verify < 1 or verify % 2 == 0):
            raise UserError(f"attack.verify must be odd and at least 1, got {verify}")
        self.lead = lead
        self.verify = verify

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {
            "ballots": torch.zeros_like(y),  # answers to the open decision,
            "balance": torch.zeros_like(y),  # and the adversarial ones less the others
            "decisions": torch.zeros_like(y),
            "differed": torch.zeros_like(y, dtype=torch.bool),  # whether two answers at one point ever did
        }

    def decide(self, state: Columns, adversarial: Tensor, verifying: Tensor) -> tuple[Tensor, Tensor]:
        """Count one answer per row; return the decided rows, and which of these are adversarial, (rows,) bool each.

        Undecided rows have to query the same point again. A decision ends early if its last answers cannot change it.
        """
        ballots = state["ballots"] + 1
        balance = state["balance"] + 2 * adversarial.long() - 1
        differed = state["differed"] | (balance.abs() < ballots)
        presumed = torch.where(state["decisions"] < _TRIALS, min(_TRIAL_LEAD, self.lead), 1)
        lead = torch.where(differed, self.lead, presumed)
        most = torch.where(verifying, self.verify, _MOST_PER_LEAD * lead - 1)
        lead = torch.where(verifying, self.verify, lead)
        decided = (balance.abs() >= lead) | (balance.abs() > most - ballots)
        state["ballots"] = torch.where(decided, 0, ballots)
        state["balance"] = torch.where(decided, 0, balance)
        state["decisions"] = state["decisions"] + decided
        state["differed"] = differed
        return decided, decided & (balance > 0)

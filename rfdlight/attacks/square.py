"""The Square attack."""

from functools import lru_cache
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from rfdlight.attacks import square_l2
from rfdlight.attacks.base import Attack, check_count, check_positive
from rfdlight.attacks.refusals import OnRefusal, check_on_refusal, doubled, taken_back
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, indices, may_hold, per_row, replace
from rfdlight.errors import UserError, expect, unknown_name

# After each of these 10,000ths of the schedule the squares' share of the pixels is halved.
_BREAKS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# By default, the first squares have this share of the pixels in images of the authors' size, ImageNet's.
_SHARE: dict[Norm, float] = {"linf": 0.05, "l2": 0.1}
_AUTHORS_SIDE = 224
_LARGEST_SHARE = 0.8
Follow = Literal["down", "up", "both", "sawtooth"]
_FOLLOWED: tuple[Follow, ...] = get_args(Follow)
_NEGATION = 1 ^ -1  # the bits in which +1 and -1 differ
_STRIPES, _WINDOW, _SIGNS, _OTHER = range(4)  # streams of random numbers; `square_l2` has the next ones
_MORE_WINDOWS, _MORE_SIGNS = 9, 10


class Square(Attack):
    """Square Attack: score-based random search over square patches, in linf or l2.

    In linf the perturbation starts as vertical stripes of +eps and -eps; each step gives one random square window a
    random sign per channel. In l2 it starts as a grid of bumps of norm eps; each step moves the mass of one window into
    a bump in another. A step is kept if the loss falls. Queries: one for the start, one per step, one per refresh.

    Source: Andriushchenko, Croce, Flammarion, Hein, Square Attack, ECCV 2020, algorithms 1 to 3, with the published
    code's window range: the last row and column are never inside a window.
    Deviations: each image has its own windows and signs; beyond `schedule_len` the squares stay small, where the
    published code returns to the first size; the targeted form lowers the margin by default, the published one the
    cross entropy; `refresh` and `follow` are not options of the authors.
    `follow` "up" and "both" are the adaptive attacks up and bi of Chen et al., Adversarial Attack on Attackers, NeurIPS
    2022, written without their code: that paper's threshold is not known here, the start is always kept, and the
    submission is the kept point, which "up" may have moved away from the boundary. "sawtooth" is ours: it fits AAA,
    whose scores rise while the model's margin falls, and fall where it crosses into the next period.
    `on_refusal` "adapt" follows the idea of OARS, Feng et al., Stateful Defenses for Machine Learning Models Are Not
    Yet Secure Against Black-box Attacks, CCS 2023, written without its code: refused proposals are redrawn, and what
    makes queries differ is tuned by the refusals themselves. That paper's parameters for Square are not known here.
    Ours is the number of squares of a proposal: a refusal doubles it, up to 64, and each answer takes back an eighth of
    a doubling. The paper searches a value first and then keeps it.

    Args:
        p: Share of the pixels in the first squares, in (0, 1]. By default min(0.8, 0.05 (224 / s)^2) in linf for images
            of shorter side s, with 0.1 for 0.05 in l2: 0.8 up to 56 (79) pixels, the authors' at 224. Under the paper's
            query counting 0.05.
        schedule_len: Evaluations or iterations over which the squares shrink, >= 1; by default the budget.
        schedule_clock: Whether the schedule counts evaluations, or iterations, that is proposals alone; they differ
            with `refresh` or several evaluations per query. By default "evaluations"; "iterations" under the paper's
            query counting.
        refresh: When the kept point is queried again and its loss replaced: "never", before "every" step, or once after
            each "accept"ed step. It matters behind random victims alone.
        loss: "margin" or "cross_entropy".
        follow: Which changes of the loss a step is kept for: "down", a fall, "up", a rise, "both", a small fall or a
            rise by a jump, or "sawtooth", a small rise or a fall by a jump. All but "down" are for victims whose scores
            mislead, such as those behind `aaa`.
        jump: Change of the loss beyond which it is a jump, > 0; by default the period of `aaa`.
        on_refusal: What follows where a query policy refuses to answer: the "end" of the attack, or, in linf without
            `refresh`, "adapt".
    """

    default_clock: ClassVar[Literal["evaluations", "iterations"]] = "evaluations"
    default_p: ClassVar[float | None] = None  # instead of the share by the image's size
    access = "score"
    norms = ("linf", "l2")
    has_targeted_form = True

    def __init__(
        self,
        p: float | None = None,
        schedule_len: int | None = None,
        schedule_clock: Literal["evaluations", "iterations"] | None = None,
        refresh: Literal["never", "every", "accept"] = "never",
        loss: Loss = "margin",
        follow: Follow = "down",
        jump: float = 6.0,
        on_refusal: OnRefusal = "end",
        **ball: Any,
    ) -> None:
        super().__init__(**ball)
        if p is not None and not 0 < p <= 1:
            raise UserError(f"attack.p must lie in (0, 1], got {p}")
        check_count(schedule_len=schedule_len)
        check_positive(jump=jump)
        self.p = p
        self.schedule_len = schedule_len
        self.schedule_clock = schedule_clock
        self.refresh = refresh
        if follow not in _FOLLOWED:
            raise unknown_name("attack.follow", follow, _FOLLOWED)
        check_on_refusal(on_refusal)
        if on_refusal == "adapt":
            expect(self.norm == "linf", "attack.norm", "linf with attack.on_refusal adapt", self.norm)
            expect(refresh == "never", "attack.refresh", "never with attack.on_refusal adapt", refresh)
        self.on_refusal = on_refusal
        self.loss = loss
        self.follow = follow
        self.jump = jump

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        columns = {
            "loss": torch.full_like(y, torch.inf, dtype=torch.float32),  # of the kept point
            "step": torch.zeros_like(y),  # proposals, of which the start is the first
            "queries": torch.zeros_like(y),
            "refreshing": torch.zeros_like(y, dtype=torch.bool),  # whether the kept point is queried next
        }
        if self.on_refusal == "adapt":  # the binary logarithm of the squares per proposal
            columns["doublings"] = torch.zeros_like(y, dtype=torch.float32)
        if self.norm == "l2":  # the kept point
            return {"point": square_l2.start(x, seed, self.threat.eps), **columns}
        channels, height, width = x.shape[1:]  # in linf, the kept perturbation in units of eps, before clipping
        stripes = rng.signs(seed, _STRIPES, torch.zeros_like(y), (channels, 1, width))
        return {"signs": stripes.expand(-1, -1, height, -1).contiguous(), **columns}

    def first_share(self, height: int, width: int) -> float:
        """Return the share of the pixels in the first squares."""
        chosen = self.default_p if self.p is None else self.p
        if chosen is not None:
            return chosen
        return min(_SHARE[self.norm] * (_AUTHORS_SIDE / min(height, width)) ** 2, _LARGEST_SHARE)

    def side(self, t: Tensor, budget: Tensor, height: int, width: int) -> Tensor:
        """Return the side of the square at the time `t` of the schedule, counted from 0, (rows,) int64."""
        length = budget.clamp_min(1) if self.schedule_len is None else self.schedule_len
        breaks, sides, _ = self._schedule(height, width, t.device)
        return sides[torch.searchsorted(breaks, (t.double() / length).mul_(10000), right=True)]

    def _schedule(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
        return _schedule(self.first_share(height, width), self.norm, height, width, device)

    def _time(self, state: Columns) -> Tensor:
        """Return the time of the schedule; the start comes before time 0."""
        iterations = (self.schedule_clock or self.default_clock) == "iterations"
        if iterations:
            return state["step"] - 1
        return state["queries"] - 1 if self.eot == 1 else (state["queries"] - 1) * self.eot

    @property
    def _kept(self) -> str:
        """Return the name of the column with the kept signs or, in l2, the kept point."""
        return "signs" if self.norm == "linf" else "point"

    def _default_length(self, state: Columns) -> Tensor:
        """Return the length of the schedule without `schedule_len`, (rows,) int64."""
        return state["budget"]

    def _paint(self, state: Columns, side: Tensor, moves: Tensor) -> Tensor:
        """Return the signs with one window repainted; the kept signs where not `moves`."""
        kept = state["signs"]
        channels, height, width = kept.shape[1:]
        streams = (_WINDOW, 2), (_OTHER, 1), (_SIGNS, rng.words_for_signs(channels))
        words = rng.words_of(state["seed"], state["step"], *streams)
        place, other = rng.as_uniform(words[:, :3]).split([2, 1], 1)
        window, _, _ = square_l2.windows(place[:, None], side, height, width)
        window.mul_(per_row(moves, window))
        paint = rng.as_signs(words[:, 3:], (channels, 1, 1))
        changes = _changes(kept, window, paint)
        # A window that already has these signs would waste the query: take one of the other sign vectors, each with
        # equal chance, by flipping the channels of a number's binary digits.
        same = changes.flatten(1).amin(1) == 0
        if may_hold(same):
            chosen = (other * (2**channels - 1)).long().add_(1)  # (rows, 1)
            flips = (chosen >> indices(channels, kept.device)).bitwise_and_(same[:, None]).mul_(_NEGATION)  # (rows, C)
            changes.addcmul_(window, flips[:, :, None, None].to(kept.dtype))
        proposal = changes.bitwise_xor_(kept)
        return self._paint_more(state, side, moves, proposal) if self.on_refusal == "adapt" else proposal

    def _paint_more(self, state: Columns, side: Tensor, moves: Tensor, proposal: Tensor) -> Tensor:
        """Return the signs of a proposal with the second and later windows painted one after the other."""
        seed, step, (channels, height, width) = state["seed"], state["step"], proposal.shape[1:]
        more = torch.where(moves, 2 ** state["doublings"], 1).round().long() - 1
        most = int(more.max())
        if not most:
            return proposal
        places = rng.uniform(seed, _MORE_WINDOWS, step, 2 * most).view(len(seed), most, 2)
        windows, _, _ = square_l2.windows(places, side, height, width)
        signs = rng.signs(seed, _MORE_SIGNS, step, (most, channels, 1, 1))
        for number in range(most):
            window = windows[:, number, None] * per_row(more > number, proposal)
            proposal = _changes(proposal, window, signs[:, number]).bitwise_xor_(proposal)
        return proposal

    def _proposal(self, state: Columns, moves: Tensor) -> Tensor:
        """Return new signs or, in l2, new points; the kept ones where not `moves`."""
        x = state["x"]
        side = self.side(self._time(state), self._default_length(state), *x.shape[2:])
        if self.norm == "linf":
            return self._paint(state, side, moves)
        _, _, largest = self._schedule(x.shape[2], x.shape[3], x.device)
        moved = square_l2.propose(x, state["point"], state["seed"], state["step"], side, largest, self.threat.eps)
        return torch.where(per_row(moves, x), moved, state["point"]) if may_hold(~moves) else moved

    def _point(self, x: Tensor, signs: Tensor) -> Tensor:
        """Return the points with these signs; in l2 they are points already."""
        return signs if self.norm == "l2" else torch.add(x, signs, alpha=self.threat.eps).clamp_(0, 1)

    def ask(self, state: Columns) -> Tensor:
        moves = state["step"] > 0
        state["proposal"] = self._proposal(state, moves if self.refresh == "never" else moves & ~state["refreshing"])
        return self._point(state["x"], state["proposal"])

    def _follows(self, kept: Tensor, loss: Tensor) -> Tensor:
        """Return which losses replace those of the kept points, (rows,) bool."""
        if self.follow == "down":
            return loss < kept
        falls, rises, jumps = loss < kept, loss > kept, (loss - kept).abs() > self.jump
        followed = {
            "up": rises,
            "both": torch.where(jumps, rises, falls),
            "sawtooth": torch.where(jumps, falls, rises),
        }[self.follow]
        return followed | kept.isposinf()  # the start has nothing to be compared with

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss = self.objective(state, answer)
        better = replaced = self._follows(state["loss"], loss)
        state["queries"] += 1
        if self.refresh == "never":
            state["step"] += 1
        else:
            refreshed = state["refreshing"]
            better, replaced = better & ~refreshed, better | refreshed
            state["step"] += ~refreshed
            state["refreshing"] = ~refreshed & (better | (self.refresh == "every"))
        kept = state[self._kept]
        replace(kept, better, state["proposal"])
        torch.where(replaced, loss.to(state["loss"].dtype), state["loss"], out=state["loss"])
        state["kept"] = better
        if self.on_refusal == "adapt":
            state["doublings"] = taken_back(state["doublings"])

    def refused(self, state: Columns, points: Tensor) -> bool:
        if self.on_refusal == "end":
            return False
        state["doublings"] = doubled(state["doublings"])
        state["step"] = state["step"] + 1
        state["queries"] = state["queries"] + 1
        return True

    def best(self, state: Columns) -> Tensor:
        return self._point(state["x"], state[self._kept])


def _changes(kept: Tensor, window: Tensor, paint: Tensor) -> Tensor:
    """Return the bits that painting a window changes in the kept signs, int8 like `kept`: `_NEGATION` or 0.

    `window` is 1 inside the window and 0 outside. On the CPU these two operators are vectorised, `torch.where` is not.
    """
    return torch.bitwise_xor(kept, paint).mul_(window)


@lru_cache
def _schedule(share: float, norm: Norm, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Return when the squares' share of the pixels is halved, in 10,000ths of the schedule, and all sides.

    They are (breaks,) float64, one 10,000th after the entries of `_BREAKS`, (breaks + 1,) int64, and the largest side.
    """
    with torch.inference_mode(False):
        shares = share * 0.5 ** indices(len(_BREAKS) + 1, device)
        side = (shares * height * width).sqrt().round().long()
        breaks = torch.tensor(_BREAKS, dtype=torch.float64, device=device) + 1
        linf = norm == "linf"
        side = side.clamp(1, max(min(height, width) - 1, 1)) if linf else square_l2.odd_side(side, height, width)
        return breaks, side, int(side.max())

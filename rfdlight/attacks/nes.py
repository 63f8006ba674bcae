"""The NES attack."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rfdlight.attacks.ascent import short_of_the_ball, step_where, unit
from rfdlight.attacks.base import Attack
from rfdlight.attacks.options import check_count, check_positive
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row

_PAIRS: dict[Norm, int] = {"linf": 20, "l2": 15}
_SIGMA: dict[Norm, float] = {"linf": 0.1, "l2": 0.005}
_STEP: dict[Norm, float] = {"linf": 0.01, "l2": 1.0}


class NES(Attack):
    """Estimates the gradient from pairs of opposite Gaussian probes and follows it, reading scores.

    An iteration draws n times u from N(0, I) and asks x_t + sigma u and x_t - sigma u. With L what the
    attacker lowers, its direction is G = sum of (L(x_t - sigma u) - L(x_t + sigma u)) / (2 sigma) u. The
    iterate moves by step sgn(G) in linf, where sgn(0) = 0, and by step G / |G| in l2, not at all if G is
    zero. It is projected on the ball around the clean image and then clipped to [0, 1].

    Source: Ilyas, Engstrom, Athalye, Lin, Black-box Adversarial Attacks with Limited Queries and
    Information, ICML 2018, algorithm 1, with the constants of Nguyen et al., Understanding the
    Robustness of Randomized Feature Defense Against Query-Based Adversarial Attacks, ICLR 2024.
    Deviations: no momentum, no reduction of the step; the margin instead of the cross entropy by
    default; probes are clipped to [0, 1], where theirs leave it, since pixels outside do not exist;
    the query that looks at the new iterate is billed. Under the paper's query counting neither probes nor
    iterates are clipped, whatever `probe_clip` says, and the look is free.

    Args:
        pairs: Pairs of probes per iteration, n, >= 1; by default 20 in linf, 15 in l2.
        sigma: Standard deviation of a probe per pixel value, > 0; by default 0.1 in linf, 0.005 in l2
            (the paper's). Note that others divide by the square root of the number of values.
        step: Length of a step, per pixel value in linf and in l2 norm in l2, > 0; by default 0.01 in
            linf and 1.0 in l2 (the paper's, for images of 224 x 224 pixels).
        probe_clip: "pixels" clips probes to [0, 1], "ball" projects them on the ball before that.
        loss: "margin" or "cross_entropy".
        ball: `eps`, `norm` ("linf" or "l2") and `targeted`, see `Attack`.

    State:
        point: like x, the iterate.
        direction: like x, the part of G known so far.
        first: (rows,) float32, the loss at the first probe of a pair.
        asked: (rows,) int64, queries so far.

    Queries:
        2n per iteration, and one at the new iterate. The clean image is never queried.

    Raises:
        UserError: If `pairs`, `sigma` or `step` is out of range.
    """

    access = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    has_targeted_form = True

    def __init__(
        self,
        pairs: int | None = None,
        sigma: float | None = None,
        step: float | None = None,
        probe_clip: Literal["pixels", "ball"] = "pixels",
        loss: Loss = "margin",
        **ball: Any,
    ) -> None:
        super().__init__(**ball)
        check_count(pairs=pairs)
        check_positive(sigma=sigma, step=step)
        self.pairs = _PAIRS[self.norm] if pairs is None else pairs
        self.sigma = _SIGMA[self.norm] if sigma is None else sigma
        self.step = _STEP[self.norm] if step is None else step
        self.probe_clip = probe_clip
        self.loss = loss

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {
            "point": x.clone(),
            "direction": torch.zeros_like(x),
            "first": torch.zeros_like(y, dtype=torch.float32),
            "asked": torch.zeros_like(y),
        }

    def _position(self, state: Columns) -> Tensor:
        """Return each row's place in its iteration, (rows,): 0 to 2n - 1 at probes, 2n at the look."""
        return state["asked"] % (2 * self.pairs + 1)

    def ask(self, state: Columns) -> Tensor:
        x, position = state["x"], self._position(state)
        # Both halves of a pair draw under the same number; the look draws too, and does not use it.
        pair = state["asked"] // (2 * self.pairs + 1) * self.pairs + position // 2
        state["draw"] = rng.normal(state["seed"], 0, pair, tuple(x.shape[1:]))
        side = torch.where(position == 2 * self.pairs, 0, 1 - 2 * (position % 2))
        probe = state["point"] + per_row(side * self.sigma, x).to(x.dtype) * state["draw"]
        if self.query_counting == "paper":
            return probe
        return probe.clamp_(0, 1) if self.probe_clip == "pixels" else self.threat.project(x, probe)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss = self.objective(state, answer)
        position = self._position(state)
        second = position % 2 == 1
        slope = torch.where(second, loss - state["first"], 0.0) / (2 * self.sigma)
        state["direction"] += per_row(slope, points) * state["draw"]
        state["first"] = torch.where(second, state["first"], loss)
        state["asked"] = state["asked"] + 1
        state["claim"] = (position == 2 * self.pairs) & self.is_adversarial(state, answer.argmax(1))
        ends = position == 2 * self.pairs - 1
        if ends.any():
            self._move(state, per_row(ends, points))

    def _move(self, state: Columns, ends: Tensor) -> None:
        """Take the step of the rows whose direction is complete."""
        direction = state["direction"]
        change = self.step * (direction.sign() if self.norm == "linf" else unit(direction))
        step_where(ends, self.threat, state, change, self.query_counting == "exact")

    def best(self, state: Columns) -> Tensor:
        return state["point"]

    def is_success_check(self, state: Columns) -> Tensor:
        return self._position(state) == 2 * self.pairs

    def reports_success(self, state: Columns) -> Tensor:
        return state["claim"]

    def paper_ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        return (self._position(state) == 0) & super().paper_ended(state, evaluated)

    def budget_warning(self, budget: int) -> str | None:
        queries = budget // self.repeats
        if self.query_counting == "exact":
            steps = (queries + 1) // (2 * self.pairs + 1)  # the last one needs no look
        else:
            steps = -(-budget // (2 * self.pairs * self.repeats))
        return short_of_the_ball(steps, self.step, self.threat.eps)

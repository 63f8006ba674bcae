"""The NES attack."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from rfdlight.attacks.argument_checks import check_count, check_positive
from rfdlight.attacks.gradient_estimation import GradientEstimation, unit
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row

_PAIRS: dict[Norm, int] = {"linf": 20, "l2": 15}
_SIGMA: dict[Norm, float] = {"linf": 0.1, "l2": 0.005}
_STEP: dict[Norm, float] = {"linf": 0.01, "l2": 1.0}


class NES(GradientEstimation):
    """NES: score-based gradient estimation from pairs of opposite Gaussian probes (natural evolution strategies).

    An iteration draws n times u from N(0, I) and queries x_t + sigma u and x_t - sigma u. With L the attacker's loss,
    the direction is G = sum of (L(x_t - sigma u) - L(x_t + sigma u)) / (2 sigma) u. The iterate moves by step sgn(G) in
    linf, where sgn(0) = 0, and by step G / |G| in l2, not at all if G is zero. It is projected on the ball around the
    clean image and clipped to [0, 1]. The last query is a success check at the new iterate.

    Source: Ilyas, Engstrom, Athalye, Lin, Black-box Adversarial Attacks with Limited Queries and Information, ICML
    2018, algorithm 1, with the constants of Nguyen et al., Understanding the Robustness of Randomized Feature Defense
    Against Query-Based Adversarial Attacks, ICLR 2024.
    Deviations: no momentum and no step decay; the margin instead of the cross entropy by default; probes are clipped to
    [0, 1]; the success check is billed.

    Args:
        pairs: Pairs of probes per iteration, n, >= 1; by default 20 in linf, 15 in l2.
        sigma: Standard deviation of a probe per pixel value, > 0; by default 0.1 in linf, 0.005 in l2 (the paper's).
            Others divide by the square root of the number of values.
        step: Length of a step, per pixel value in linf and in l2 norm in l2, > 0; by default 0.01 in linf and 1.0 in l2
            (the paper's, for images of 224 x 224 pixels).
        probe_clip: "pixels" clips probes to [0, 1], "ball" projects them on the ball first.
        loss: "margin" or "cross_entropy".
        ball: `eps`, `norm` ("linf" or "l2") and `targeted`, see `Attack`.

    State:
        direction: like x, the part of G known so far; and the columns of `GradientEstimation`.

    Queries:
        2n + 1 per iteration. The clean image is never queried.
    """

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

    @property
    def cycle(self) -> int:
        return 2 * self.pairs + 1

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {"direction": torch.zeros_like(x), **super().init(x, y, seed)}

    def in_range(self, x: Tensor, probe: Tensor) -> Tensor:
        return probe.clamp_(0, 1) if self.probe_clip == "pixels" else self.threat.project(x, probe)

    def ask(self, state: Columns) -> Tensor:
        x, position = state["x"], self.position(state)
        # Both probes of a pair have the same number; the success check draws too, and does not use it.
        pair = state["queries"] // self.cycle * self.pairs + position // 2
        state["draw"] = rng.normal(state["seed"], 0, pair, tuple(x.shape[1:]))
        side = torch.where(position == 2 * self.pairs, 0, 1 - 2 * (position % 2))
        return self.in_range(x, state["point"] + per_row(side * self.sigma, x).to(x.dtype) * state["draw"])

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss, position = self.objective(state, answer), self.position(state)
        second = position % 2 == 1
        slope = torch.where(second, loss - state["first"], 0.0) / (2 * self.sigma)
        state["direction"] += per_row(slope, points) * state["draw"]
        state["first"] = torch.where(second, state["first"], loss)
        state["queries"] = state["queries"] + 1
        complete = position == 2 * self.pairs - 1
        if complete.any():
            self.step_along(state, complete)

    def step_along(self, state: Columns, rows: Tensor) -> None:
        """Take the step of `rows`, whose direction is complete."""
        direction = state["direction"]
        self.move(state, rows, self.step * (direction.sign() if self.norm == "linf" else unit(direction)))
        state["direction"] = direction.masked_fill(per_row(rows, direction), 0.0)

"""The ZO-signSGD attack."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from rfdlight.attacks.ascent import short_of_the_ball, step_where
from rfdlight.attacks.base import Attack
from rfdlight.attacks.options import check_count, check_positive
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row


class ZOSignSGD(Attack):
    """Estimates the gradient from forward differences and follows its signs, reading scores.

    An iteration asks the iterate x_t, then n times x_t + sigma u with u from N(0, I). With L what the
    attacker lowers, its direction is G = sum of (L(x_t) - L(x_t + sigma u)) u. The iterate moves by
    step sgn(G), in l2 too, where sgn(0) = 0. It is projected on the ball around the clean image and then
    clipped to [0, 1].

    Source: Liu, Chen, Chen, Hong, signSGD via Zeroth-Order Oracle, ICLR 2019, algorithm 1, with
    Gaussian directions and the constants of Nguyen et al., Understanding the Robustness of
    Randomized Feature Defense Against Query-Based Adversarial Attacks, ICLR 2024. Deviations: probes
    are clipped to [0, 1]; the margin instead of the cross entropy by default. Under the paper's
    query counting every sample is followed by a query of its own at x_t, the look at the new iterate is
    another query and free, and nothing is clipped.

    Args:
        samples: Probes per iteration, n, >= 1.
        sigma: Standard deviation of a probe per pixel value, > 0.
        step: Length of a step per pixel value, > 0.
        loss: "margin" or "cross_entropy".
        ball: `eps` and `norm` ("linf" or "l2"), see `Attack`.

    State:
        point: like x, the iterate.
        direction: like x, the part of G known so far.
        other: (rows,) float32, the loss that the next one is compared with: the iterate's, or under
            the paper's query counting the probe's.
        asked: (rows,) int64, queries so far.

    Queries:
        n + 1 per iteration; the one at the iterate is also the look at it.

    Raises:
        UserError: If `samples`, `sigma` or `step` is out of range.
    """

    access = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    def __init__(
        self, samples: int = 15, sigma: float = 0.1, step: float = 0.01, loss: Loss = "margin", **ball: Any
    ) -> None:
        super().__init__(**ball)
        check_count(samples=samples)
        check_positive(sigma=sigma, step=step)
        self.samples = samples
        self.sigma = sigma
        self.step = step
        self.loss = loss

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {
            "point": x.clone(),
            "direction": torch.zeros_like(x),
            "other": torch.zeros_like(y, dtype=torch.float32),
            "asked": torch.zeros_like(y),
        }

    @property
    def _cycle(self) -> int:
        """Queries per iteration, counting the look."""
        return self.samples + 1 if self.query_counting == "exact" else 2 * self.samples + 1

    def _position(self, state: Columns) -> Tensor:
        """Return each row's place in its iteration, (rows,).

        Exact: 0 at the iterate, 1 to n at probes. Paper: even at probes, odd at the iterate, 2n at the look.
        """
        return state["asked"] % self._cycle

    def _probes(self, position: Tensor) -> Tensor:
        """Say which rows ask a probe, (rows,) bool."""
        if self.query_counting == "exact":
            return position > 0
        return (position % 2 == 0) & (position < 2 * self.samples)

    def ask(self, state: Columns) -> Tensor:
        x, position = state["x"], self._position(state)
        within = (position - 1).clamp_min(0) if self.query_counting == "exact" else position // 2
        number = state["asked"] // self._cycle * self.samples + within
        state["draw"] = rng.normal(state["seed"], 0, number, tuple(x.shape[1:]))
        probe = state["point"] + per_row(self._probes(position) * self.sigma, x).to(x.dtype) * state["draw"]
        return probe.clamp_(0, 1) if self.query_counting == "exact" else probe

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss = self.objective(state, answer)
        position = self._position(state)
        probes = self._probes(position)
        if self.query_counting == "exact":
            fall = torch.where(probes, state["other"] - loss, 0.0)
            state["other"] = torch.where(probes, state["other"], loss)
            looks, ends = ~probes, position == self.samples
        else:
            fall = torch.where(position % 2 == 1, loss - state["other"], 0.0)
            state["other"] = torch.where(probes, loss, state["other"])
            looks, ends = position == 2 * self.samples, position == 2 * self.samples - 1
        state["direction"] += per_row(fall, points) * state["draw"]
        state["asked"] = state["asked"] + 1
        state["claim"] = looks & self.is_adversarial(state, answer.argmax(1))
        if ends.any():
            self._move(state, per_row(ends, points))

    def _move(self, state: Columns, ends: Tensor) -> None:
        """Take the step of the rows whose direction is complete."""
        change = self.step * state["direction"].sign()
        step_where(ends, self.threat, state, change, self.query_counting == "exact")

    def best(self, state: Columns) -> Tensor:
        return state["point"]

    def is_success_check(self, state: Columns) -> Tensor:
        if self.query_counting == "exact":
            return super().is_success_check(state)
        return self._position(state) == 2 * self.samples

    def reports_success(self, state: Columns) -> Tensor:
        return state["claim"]

    def paper_ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        return (self._position(state) == 0) & super().paper_ended(state, evaluated)

    def budget_warning(self, budget: int) -> str | None:
        if self.norm == "l2":
            return None  # how far a step of signs leads depends on the images' size
        if self.query_counting == "exact":
            steps = budget // self.repeats // (self.samples + 1)
        else:
            steps = -(-budget // (2 * self.samples * self.repeats))
        return short_of_the_ball(steps, self.step, self.threat.eps)

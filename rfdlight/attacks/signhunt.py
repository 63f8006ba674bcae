"""The SignHunter attack."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core import norms
from rfdlight.core.losses import Loss
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row


class SignHunt(Attack):
    """Finds the signs of the gradient by negating halves, quarters, ... of them, reading scores.

    A probe is anchor + eps v in linf and anchor + eps v / sqrt(d) in l2, with v in {-1, +1}^d. The anchor
    is x and v starts at +1. Each step negates v on one chunk of the flattened image and keeps that unless
    the score falls; a tie is kept. The score is the attacker's loss with its sign changed. At level h the
    chunks have ceil(d / 2^h) values. After the level of single values the search starts anew, with v = +1,
    at the probe that it has reached.

    Source: Al-Dujaili and O'Reilly, Sign Bits Are All You Need for Black-Box Attacks, ICLR 2020, algorithm 2.
    Deviations: every probe is projected on the ball and clipped to [0, 1], which changes it in the second
    pass and at the ends of the pixel range; the published code clips what it submits alone. Under the
    paper's query counting, as in its code, nothing is clipped, only what is submitted is projected, the base is
    asked each time and not billed, and after each step the attacker looks at its iterate. There the second
    pass starts at the current iterate, in the paper's code at the one before; they differ in at most one value.

    Args:
        base_query: Whether each comparison also asks the anchor, and compares differences to it. It cancels
            on a deterministic victim, and adds noise on a random one. By default off, and on under the
            paper's query counting.
        flatten: The order of the values: "chw" as the paper, or "hwc" as the authors, where early chunks are
            bands of whole rows.
        loss: "margin" as the paper, or "cross_entropy" as the authors.
        ball: `eps`, `norm` ("linf" or "l2") and `targeted`, see `Attack`.

    State:
        signs: int8 (rows, C, H, W), the kept v.
        anchor: like x.
        score: (rows,) float64, that of the kept v, less the base if it is asked; minus infinity before v = +1
            has been answered.
        base: (rows,) float64, the score of the anchor as last answered, or 0.
        level, chunk: (rows,) int64, which chunk is tried: number `chunk` of 2^level.
        phase: (rows,) int64: asking the base, a probe, or looking at the iterate.
        flips, passes: (rows,) int64, how many chunks have been tried, and searches started.

    Queries:
        One for v = +1 at the start of each pass and one per step; twice as many with `base_query`.
    """

    access = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    has_targeted_form = True

    _BASE, _PROBE, _LOOK = range(3)

    def __init__(
        self,
        base_query: bool | None = None,
        flatten: Literal["chw", "hwc"] = "chw",
        loss: Loss = "margin",
        **ball: Any,
    ) -> None:
        super().__init__(**ball)
        self.base_query = base_query
        self.flatten = flatten
        self.loss = loss

    @property
    def _first(self) -> int:
        """The phase that a comparison starts with."""
        asks = self.query_counting == "paper" if self.base_query is None else self.base_query
        return self._BASE if asks else self._PROBE

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        zero = torch.zeros_like(y)
        return {
            "signs": torch.ones_like(x, dtype=torch.int8),
            "anchor": x.clone(),
            "score": torch.full_like(y, -torch.inf, dtype=torch.float64),
            "base": torch.zeros_like(y, dtype=torch.float64),
            "level": zero,
            "chunk": zero.clone(),
            "phase": torch.full_like(y, self._first),
            "flips": zero.clone(),
            "passes": zero.clone(),
        }

    @staticmethod
    def length(level: Tensor, size: int) -> Tensor:
        """Return the values per chunk of images with `size` values, (rows,): size / 2^level, rounded up."""
        chunks = 2**level
        return (size + chunks - 1) // chunks

    def after(self, level: Tensor, chunk: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return level and number of the chunk that follows one, (rows,) each."""
        chunk = chunk + 1
        past = (chunk >= 2**level) | (chunk * self.length(level, size) >= size)
        return level + past, chunk.masked_fill(past, 0)

    def _negated(self, state: Columns) -> Tensor:
        """Return the kept signs, negated on the chunk that is tried; v = +1 itself before its answer."""
        channels, height, width = state["x"].shape[1:]
        index = torch.arange(channels * height * width, device=state["x"].device)
        if self.flatten == "hwc":
            index = index.view(height, width, channels).permute(2, 0, 1)
        index = index.reshape(1, channels, height, width)
        length = torch.where(state["score"] == -torch.inf, 0, self.length(state["level"], index.numel()))
        start = state["chunk"] * length
        inside = (index >= per_row(start, index)) & (index < per_row(start + length, index))
        return torch.where(inside, -state["signs"], state["signs"])

    def _probe(self, state: Columns, signs: Tensor, submitted: bool = False) -> Tensor:
        eps = self.threat.eps
        size = eps if self.norm == "linf" else eps / math.sqrt(signs[0].numel())
        point = torch.add(state["anchor"], signs, alpha=size)
        if self.query_counting == "exact":
            return self.threat.project(state["x"], point)
        return state["x"] + norms.project(point - state["x"], self.norm, eps) if submitted else point

    def ask(self, state: Columns) -> Tensor:
        phase = per_row(state["phase"], state["x"])
        state["trial"] = self._negated(state)
        points = self._probe(state, state["trial"])
        if (phase == self._BASE).any():
            points = torch.where(phase == self._BASE, state["anchor"], points)
        if (phase == self._LOOK).any():
            points = torch.where(phase == self._LOOK, self.best(state), points)
        return points

    def is_success_check(self, state: Columns) -> Tensor:
        return state["phase"] == self._LOOK

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        score, hit = -self.objective(state, answer).double(), self.is_adversarial(state, answer.argmax(1))
        bases, probes, looks = (state["phase"] == which for which in range(3))
        opens = probes & (state["score"] == -torch.inf)
        flips = probes & ~opens
        gain = score - state["base"]
        kept = probes & (gain >= state["score"])
        state["claim"] = hit & (looks if self.query_counting == "paper" else kept)

        torch.where(per_row(kept, points), state["trial"], state["signs"], out=state["signs"])
        state["score"] = torch.where(kept, gain, state["score"])
        state["base"] = torch.where(bases, score, state["base"])
        size = points[0].numel()
        level, chunk = self.after(state["level"], state["chunk"], size)
        state["level"] = torch.where(flips, level, state["level"])
        state["chunk"] = torch.where(flips, chunk, state["chunk"])
        state["flips"] = state["flips"] + flips
        state["passes"] = state["passes"] + opens
        phase = torch.where(bases, self._PROBE, self._first)
        state["phase"] = torch.where(flips, self._LOOK, phase) if self.query_counting == "paper" else phase
        self._restart(state, size)

    def _restart(self, state: Columns, size: int) -> None:
        """Start the search anew where the level of single values is complete, and looked at."""
        over = (state["level"] > (size - 1).bit_length()) & (state["phase"] != self._LOOK)
        if not over.any():
            return
        rows = per_row(over, state["x"])
        state["anchor"] = torch.where(rows, self.best(state), state["anchor"])
        state["signs"] = state["signs"].masked_fill(rows, 1)
        state["score"] = state["score"].masked_fill(over, -torch.inf)
        state["level"] = state["level"].masked_fill(over, 0)

    def best(self, state: Columns) -> Tensor:
        unasked = per_row(state["score"] == -torch.inf, state["x"])
        return torch.where(unasked, state["anchor"], self._probe(state, state["signs"], submitted=True))

    def reports_success(self, state: Columns) -> Tensor:
        return state["claim"]

    def paper_billed(self, state: Columns, evaluated: Tensor) -> Tensor:
        # One query per step and two more per pass, whatever was asked at the base.
        billed = self.repeats * (state["flips"] + 2 * state["passes"])
        return billed if self._first == self._BASE else evaluated

    def paper_ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        # The first step of a pass includes the answer to v = +1.
        half = (state["score"] > -torch.inf) & (state["level"] + state["chunk"] == 0)
        between = (state["phase"] == self._first) & ~half
        return between & (self.paper_billed(state, evaluated) >= state["budget"])

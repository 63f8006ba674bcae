"""The SignHunter attack."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core.losses import Loss
from rfdlight.core.tensors import Columns, halved_blocks, may_hold, negated, per_row, replace


class SignHunt(Attack):
    """SignHunter: score-based divide-and-conquer search for the signs of the gradient, in linf or l2.

    A probe is x + eps v in linf and x + eps v / sqrt(d) in l2, with v = +1 at first. Each step negates v on one chunk
    of the flattened image and keeps that unless the score, the negated loss of the attacker, falls. At level h the
    chunks have ceil(d / 2^h) values. After the level of single values the search starts again at the probe that it has
    reached. Queries: one at the start of each pass and one per step; twice as many with `base_query`.

    Source: Al-Dujaili and O'Reilly, Sign Bits Are All You Need for Black-Box Attacks, ICLR 2020, algorithm 2.
    Deviations: every probe is projected on the ball and clipped to [0, 1], which changes it in the second pass and at
    the ends of the pixel range; the published code clips the submitted point alone.

    Args:
        base_query: Whether each comparison also queries the anchor, and compares differences to it. It cancels on a
            deterministic victim, and adds noise on a random one. By default off; on under the paper's query counting.
        flatten: The order of the values: "chw" as the paper, or "hwc" as the authors, whose early chunks are bands of
            whole rows.
        loss: "margin" as the paper, or "cross_entropy" as the authors.
    """

    access = "score"
    norms = ("linf", "l2")
    has_targeted_form = True

    BASE, PROBE = range(2)

    def __init__(
        self, base_query: bool | None = None, flatten: Literal["chw", "hwc"] = "chw", loss: Loss = "margin", **ball: Any
    ) -> None:
        super().__init__(**ball)
        self.base_query = base_query
        self.flatten = flatten
        self.loss = loss

    @property
    def first_phase(self) -> int:
        """The phase that a comparison starts with."""
        return self.BASE if self.base_query else self.PROBE

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {
            "signs": torch.ones_like(x, dtype=torch.int8),  # the kept v
            "anchor": x.clone(),
            "score": torch.full_like(y, -torch.inf, dtype=torch.float64),  # of v less `base`; -inf before a pass
            "base": torch.zeros_like(y, dtype=torch.float64),  # the last score of the anchor, or 0
            "level": torch.zeros_like(y),  # the chunk that is tried has the number `chunk` of 2^level
            "chunk": torch.zeros_like(y),
            "phase": torch.full_like(y, self.first_phase),
            "flips": torch.zeros_like(y),  # chunks tried
            "passes": torch.zeros_like(y),  # passes started
        }

    @staticmethod
    def chunks(size: int, device: torch.device) -> Tensor:
        """Return the lengths and numbers of chunks by level, see `halved_blocks`: one more level than is searched."""
        return halved_blocks(size, (size - 1).bit_length() + 2, device)

    def _negated(self, state: Columns) -> Tensor:
        """Return the kept signs, negated on the chunk that is tried, or v = +1 itself at the start of a pass."""
        signs = state["signs"]
        length, state["chunks"] = self.chunks(signs[0].numel(), signs.device)[:, state["level"]]
        state["opens"] = state["score"] == -torch.inf
        length = length.masked_fill(state["opens"], 0)
        start = state["chunk"] * length
        if self.flatten == "chw":
            return negated(signs, start, start + length)
        return negated(signs.permute(0, 2, 3, 1), start, start + length).permute(0, 3, 1, 2).contiguous()

    def probe(self, state: Columns, signs: Tensor) -> Tensor:
        """Return the points at the surface of the ball around the anchor, within the ball around x and [0, 1]."""
        return self.threat.project(state["x"], self.unprojected(state, signs))

    def unprojected(self, state: Columns, signs: Tensor) -> Tensor:
        """Return the points at the surface of the ball around the anchor, like `x`."""
        eps = self.threat.eps
        size = eps if self.norm == "linf" else eps / math.sqrt(signs[0].numel())
        return torch.add(state["anchor"], signs, alpha=size)

    def ask(self, state: Columns) -> Tensor:
        state["trial"] = self._negated(state)
        points = self.probe(state, state["trial"])
        if self.first_phase == self.PROBE:
            return points
        return torch.where(per_row(state["phase"] == self.BASE, points), state["anchor"], points)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        score = -self.objective(state, answer).double()
        probes, before = state["phase"] == self.PROBE, state["opens"]
        opens, flips = probes & before, probes > before
        gain = score - state["base"]
        state["kept"] = kept = (gain >= state["score"]).logical_and_(probes)

        replace(state["signs"], kept, state["trial"])
        torch.where(kept, gain, state["score"], out=state["score"])
        state["chunk"] += flips
        past = state["chunk"] >= state["chunks"]  # only of a chunk that was tried: the others are below
        state["chunk"].masked_fill_(past, 0)
        state["level"] += past
        state["flips"] += flips
        state["passes"] += opens
        self.move_on(state, flips, score)
        over = self.pass_is_over(state)
        if may_hold(over):
            self._restart(state, over)

    def move_on(self, state: Columns, flips: Tensor, score: Tensor) -> None:
        """Set the next phase after a base, after steps, `flips`, and after other queries; keep the scores of bases."""
        phase, bases = state["phase"], state["phase"] == self.BASE if self.first_phase == self.BASE else None
        phase.fill_(self.first_phase)
        if bases is not None:
            phase.masked_fill_(bases, self.PROBE)
            torch.where(bases, score, state["base"], out=state["base"])

    def pass_is_over(self, state: Columns) -> Tensor:
        """Return which rows have completed the level of single values, (rows,) bool."""
        return state["level"] > (state["x"][0].numel() - 1).bit_length()

    def _restart(self, state: Columns, rows: Tensor) -> None:
        """Start the search of `rows` again at the point that it has reached."""
        of_pixels = per_row(rows, state["x"])
        torch.where(of_pixels, self.submitted(state), state["anchor"], out=state["anchor"])
        state["signs"].masked_fill_(of_pixels, 1)
        state["score"].masked_fill_(rows, -torch.inf)
        state["level"].masked_fill_(rows, 0)

    def best(self, state: Columns) -> Tensor:
        before = per_row(state["score"] == -torch.inf, state["x"])
        return torch.where(before, state["anchor"], self.submitted(state))

    def submitted(self, state: Columns) -> Tensor:
        """Return the point of the kept signs, in the ball, like `x`."""
        return self.probe(state, state["signs"])

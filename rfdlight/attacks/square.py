"""The Square attack."""

from __future__ import annotations

import torch
from torch import Tensor

from rfdlight import rng
from rfdlight.attacks.base import Attack
from rfdlight.errors import UserError
from rfdlight.losses import margin
from rfdlight.norms import Norm
from rfdlight.tensors import Columns, per_row

_BREAKS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After each of these 10,000ths of the schedule the squares' share of the pixels is halved."""

_STRIPES, _WINDOW, _SIGNS, _OTHER = range(4)
"""The streams of random numbers."""


class Square(Attack):
    """Random search over square patches, reading scores.

    The perturbation is +eps or -eps at every pixel. It starts as vertical stripes; each step gives
    one random square window a random sign per channel and keeps that if the margin falls.

    Source: Andriushchenko, Croce, Flammarion, Hein, Square Attack, ECCV 2020, algorithms 1 and 2,
    with the published code's window range: the last row and column are never inside a window.
    Deviations: every image has its own window and signs; beyond `schedule_len` the squares stay
    small, where that code returns to the first size.

    Args:
        p: Share of the pixels in the first squares, in (0, 1]; 0.05 is the authors' for ImageNet
            and the paper's.
        schedule_len: Queries over which the squares shrink, >= 1; by default the budget.
        eps: Radius in pixel units, > 0; by default the data set's reference radius.
        norm: "linf".

    State:
        signs: int8 (rows, C, H, W), the kept perturbation in units of eps, before clipping.
        loss: (rows,) float32, its margin, infinite before the first answer.
        step: (rows,) int64, queries so far.

    Queries:
        One for the stripes, one per step. The clean image is never queried.

    Raises:
        UserError: If `p` or `schedule_len` is out of range.
    """

    reads = "scores"

    def __init__(
        self, p: float = 0.05, schedule_len: int | None = None, eps: float | None = None, norm: Norm = "linf"
    ) -> None:
        super().__init__(eps, norm)
        if not 0 < p <= 1:
            raise UserError(f"attack.p must lie in (0, 1], got {p}")
        if schedule_len is not None and schedule_len < 1:
            raise UserError(f"attack.schedule_len must be at least 1, got {schedule_len}")
        self.p = p
        self.schedule_len = schedule_len

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        channels, height, width = x.shape[1:]
        stripes = rng.signs(seed, _STRIPES, torch.zeros_like(y), (channels, 1, width))
        return {
            "signs": stripes.expand(-1, -1, height, -1).contiguous(),
            "loss": torch.full_like(y, torch.inf, dtype=torch.float32),
            "step": torch.zeros_like(y),
        }

    def side(self, t: Tensor, budget: Tensor, height: int, width: int) -> Tensor:
        """Return the side of the square in step `t`, counted from 0, (rows,) int64."""
        length = budget.clamp_min(1) if self.schedule_len is None else self.schedule_len
        elapsed = (t.double() / length * 10000).floor()
        halvings = (elapsed[:, None] > torch.tensor(_BREAKS, device=t.device)).sum(1)
        share = self.p * 0.5**halvings
        return (share * height * width).sqrt().round().long().clamp(1, max(min(height, width) - 1, 1))

    def _proposal(self, state: Columns) -> Tensor:
        """Return the signs with one window repainted; the kept ones before the first answer."""
        kept, seed, step = state["signs"], state["seed"], state["step"]
        channels, height, width = kept.shape[1:]
        side = self.side(step - 1, state["budget"], height, width)  # (rows,)
        place = rng.uniform(seed, _WINDOW, step, 2)
        top = (place[:, 0] * (height - side)).long()
        left = (place[:, 1] * (width - side)).long()
        down = torch.arange(height, device=kept.device) - top[:, None]  # (rows, H)
        across = torch.arange(width, device=kept.device) - left[:, None]
        rows_inside = (down >= 0) & (down < side[:, None])
        columns_inside = (across >= 0) & (across < side[:, None]) & (step > 0)[:, None]
        window = (rows_inside[:, :, None] & columns_inside[:, None, :])[:, None]  # (rows, 1, H, W)

        paint = rng.signs(seed, _SIGNS, step, (channels, 1, 1))
        proposal = torch.where(window, paint, kept)
        # A window that already has these signs would waste the query: take one of the other sign
        # vectors, each with equal chance, by flipping the channels of a number's binary digits.
        same = (proposal == kept).flatten(1).all(1) & (step > 0)
        if same.any():
            other = (rng.uniform(seed, _OTHER, step, 1) * (2**channels - 1)).long() + 1  # (rows, 1)
            flips = 1 - 2 * ((other >> torch.arange(channels, device=kept.device)) & 1)  # (rows, C)
            flips = torch.where(same[:, None], flips, 1).to(torch.int8)
            proposal = torch.where(window, paint * flips[:, :, None, None], kept)
        return proposal

    def _point(self, x: Tensor, signs: Tensor) -> Tensor:
        return torch.add(x, signs, alpha=self.threat.eps).clamp_(0, 1)

    def ask(self, state: Columns) -> Tensor:
        state["proposal"] = self._proposal(state)
        return self._point(state["x"], state["proposal"])

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss = margin(answer, state["y"])
        better = loss < state["loss"]
        torch.where(per_row(better, points), state["proposal"], state["signs"], out=state["signs"])
        state["loss"] = torch.where(better, loss, state["loss"])
        state["accepted"] = better
        state["step"] = state["step"] + 1

    def best(self, state: Columns) -> Tensor:
        return self._point(state["x"], state["signs"])

    def claims(self, state: Columns) -> Tensor:
        return state["accepted"] & (state["loss"] <= 0)

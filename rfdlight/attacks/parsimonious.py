"""The Parsimonious attack."""

from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack, check_count, check_side
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.tensors import Columns, per_row
from rfdlight.errors import UserError

_BATCH = 64  # blocks that are searched together


class Parsimonious(Attack):
    """Parsimonious attack: score-based local search over the signs of blocks by lazy greedy steps, in linf.

    Each square block of each channel is at +eps or -eps, at first all at -eps. The blocks are searched in random
    batches of 64. Of a batch, blocks at -eps are raised first, then blocks at +eps are lowered: the block with the
    largest gain first, and as long as there is a gain. A gain is how far the loss falls. Old gains serve as upper
    bounds, which they are for a submodular loss, so only the block with the largest bound is queried again. After all
    batches the blocks have half the side, down to single pixels. Queries: one per gain, and one per batch at the kept
    point.

    Source: Moon, An, Song, Parsimonious Black-Box Adversarial Attacks via Efficient Combinatorial Optimization, ICML
    2019, algorithms 1 to 3, with the batches of the published code.
    Deviations: no block is changed, and none is queried again, whose gain or bound is not positive, where the published
    code always changes the first one; the margin by default.

    Args:
        block: Side of the first blocks, a power of 2; by default the largest within an eighth of the image's shorter
            side, which gives the authors' 4 at 32 pixels and 32 at 299.
        loss: "margin" or "cross_entropy", the authors'.

    Raises:
        UserError: If `block` is not a power of 2, or `init` gets images smaller than the block.
    """

    access = "score"
    has_targeted_form = True

    BASE, RAISE, LOWER = range(3)

    def __init__(self, block: int | None = None, loss: Loss = "margin", **ball: Any) -> None:
        super().__init__(**ball)
        check_count(block=block)
        if block is not None and block & (block - 1):
            raise UserError(f"attack.block must be a power of 2, got {block}")
        self.block = block
        self.loss = loss

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        check_side(x, block=self.block)
        batch = (len(x), _BATCH)
        return {
            "signs": torch.full_like(x, -1, dtype=torch.int8),
            "loss": torch.zeros_like(y, dtype=torch.float32),  # of the signs
            "phase": torch.zeros_like(y),
            "sweep": torch.zeros_like(y),  # sweeps over all blocks that are finished
            "batch": torch.zeros_like(y),  # batches of this sweep that are finished
            "raised": torch.zeros(batch, dtype=torch.bool, device=x.device),  # blocks of the batch at +eps
            "missing": torch.zeros(batch, dtype=torch.bool, device=x.device),  # slots without a block
            "bounds": torch.zeros(batch, device=x.device),  # on the change of the loss; -inf unknown, inf not to change
            "fresh": torch.zeros(batch, dtype=torch.bool, device=x.device),  # bounds that are exact for these signs
        }

    def _blocks(self, state: Columns) -> tuple[Tensor, Tensor, Tensor]:
        """Return the side of the blocks, how many lie below each other, and how many side by side, (rows,) int64."""
        height, width = state["x"].shape[2:]
        first = self.block or 1 << max((min(height, width) // 8).bit_length() - 1, 0)
        side = (first // 2 ** state["sweep"].clamp_max(62)).clamp_min(1)
        return side, (height + side - 1) // side, (width + side - 1) // side

    def _places(self, state: Columns, slot: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return channel, row and column of the blocks in slots of the batch, and which slots have one, (rows, n)."""
        _, down, across = self._blocks(state)
        size = (state["x"].shape[1] * down * across)[:, None].expand_as(slot)
        place = state["batch"][:, None] * _BATCH + slot
        seed, sweep = (state[name][:, None].expand_as(slot).flatten() for name in ("seed", "sweep"))
        order = rng.permuted(seed, 0, sweep, place.minimum(size - 1).flatten(), size.flatten()).view_as(slot)
        down, across = down[:, None], across[:, None]
        return order // (down * across), order // across % down, order % across, place < size

    def _negated(self, state: Columns) -> Tensor:
        """Return the signs with those of the block with the least bound negated."""
        side = self._blocks(state)[0][:, None]
        channel, row, column, _ = self._places(state, state["bounds"].argmin(1, keepdim=True))
        channels, height, width = (torch.arange(length, device=side.device) for length in state["x"].shape[1:])
        inside = (
            (channels == channel)[:, :, None, None]
            & (height // side == row)[:, None, :, None]
            & (width // side == column)[:, None, None, :]
        )
        return torch.where(inside, -state["signs"], state["signs"])

    def _point(self, x: Tensor, signs: Tensor) -> Tensor:
        return torch.add(x, signs, alpha=self.threat.eps).clamp_(0, 1)

    def ask(self, state: Columns) -> Tensor:
        base = per_row(state["phase"] == self.BASE, state["x"])
        return self._point(state["x"], torch.where(base, state["signs"], self._negated(state)))

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss = self.objective(state, answer)
        base = state["phase"] == self.BASE
        tried = self._least(state) & ~base[:, None]
        state["bounds"] = torch.where(tried, (loss - state["loss"])[:, None], state["bounds"])
        state["fresh"] = state["fresh"] | tried
        state["loss"] = torch.where(base, loss, state["loss"])
        if base.any():
            self._open_batch(state, base)
        self._change(state)
        self._begin(state, self._is_over(state, self.RAISE), self.LOWER)
        self._close_batch(state, self._is_over(state, self.LOWER))

    @staticmethod
    def _least(state: Columns) -> Tensor:
        """Return the slot with the least bound, of equal ones the first, as (rows, slots) bool."""
        bounds = state["bounds"]
        return torch.arange(_BATCH, device=bounds.device) == bounds.argmin(1, keepdim=True)

    @staticmethod
    def _is_over(state: Columns, phase: int) -> Tensor:
        """Return which rows in a phase have no block left that may lower the loss, (rows,) bool."""
        return (state["phase"] == phase) & (state["bounds"].amin(1) >= 0)

    def _open_batch(self, state: Columns, rows: Tensor) -> None:
        """Read the signs of the next blocks of `rows`, and begin to raise."""
        own = {name: state[name][rows] for name in ("x", "signs", "seed", "sweep", "batch")}
        slot = torch.arange(_BATCH, device=rows.device).expand(len(own["x"]), -1)
        side = self._blocks(own)[0][:, None]
        channel, row, column, exists = self._places(own, slot)
        number = torch.arange(len(slot), device=rows.device)[:, None]
        raised = state["raised"].clone()
        raised[rows] = own["signs"][number, channel, row * side, column * side] > 0
        state["raised"], missing = raised, torch.zeros_like(raised)
        missing[rows] = ~exists
        state["missing"] = torch.where(rows[:, None], missing, state["missing"])
        self._begin(state, rows, self.RAISE)

    def _begin(self, state: Columns, rows: Tensor, phase: int) -> None:
        """Start to raise the lowered blocks, or to lower the raised ones, of `rows`."""
        ready = (state["raised"] == (phase == self.LOWER)) & ~state["missing"]
        unknown = torch.where(ready, -torch.inf, torch.inf)
        state["bounds"] = torch.where(rows[:, None], unknown, state["bounds"])
        state["fresh"] = state["fresh"] & ~rows[:, None]
        state["phase"] = state["phase"].masked_fill(rows, phase)

    def _change(self, state: Columns) -> None:
        """Change the block with the least bound where that bound is fresh and the loss falls by it."""
        least, change = self._least(state), state["bounds"].amin(1)
        rows = (state["phase"] != self.BASE) & (least & state["fresh"]).any(1) & (change < 0)
        if not rows.any():
            return
        state["signs"] = torch.where(per_row(rows, state["x"]), self._negated(state), state["signs"])
        state["loss"] = torch.where(rows, state["loss"] + change, state["loss"])
        changed = least & rows[:, None]
        state["raised"] = state["raised"] ^ changed
        state["bounds"] = state["bounds"].masked_fill(changed, torch.inf)
        state["fresh"] = state["fresh"] & ~rows[:, None]

    def _close_batch(self, state: Columns, rows: Tensor) -> None:
        """Go on from the batches of `rows` to the next ones, after the last to smaller blocks."""
        _, down, across = self._blocks(state)
        batch = state["batch"] + rows
        over = rows & (batch * _BATCH >= state["x"].shape[1] * down * across)
        state["batch"] = batch.masked_fill(over, 0)
        state["sweep"] = state["sweep"] + over
        state["phase"] = state["phase"].masked_fill(rows, self.BASE)

    def best(self, state: Columns) -> Tensor:
        return self._point(state["x"], state["signs"])

"""The coarse-to-fine form of the Bernoulli attack."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from rfdlight.attacks.bernoulli import Bernoulli
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns

_HALVINGS = (20, 80)  # queries after which cells are halved


class BernoulliMultiscale(Bernoulli):
    """Multiscale Bernoulli attack: the score-based Bernoulli attack from coarse cells to fine ones.

    The signs of a query are constant on a grid of 2 by 2 cells during the first 20 queries, of 4 by 4 during the next
    60, and then of `grid` by `grid`. theta has one number per channel and cell of the last grid, and a cell begins a
    scale with the theta of the cell that it was part of. An adversarially trained victim hardly reacts to single
    pixels: signs on few, large cells change its loss by more, and its noise hides less of that. Other victims fall to
    the Bernoulli attack in fewer queries.

    Source: see `rfdlight.attacks.bernoulli`. Attacks that go from coarse cells to fine ones: Moon et al., Parsimonious
    Black-Box Adversarial Attacks via Efficient Combinatorial Optimization, ICML 2019.

    Args:
        grid: Cells per side of the last scale, from 1 to the shorter side; by default that side, at most 8.
        rate: Step of theta in units of 4 / sqrt(number of signs), > 0; by default 0.4.
        loss: "margin" or "cross_entropy".
    """

    _rates: ClassVar[dict[Norm, float]] = {"linf": 0.4, "l2": 0.4}
    _finest = 8

    def _cells_at(self, query: Tensor, grid: int) -> Tensor:
        """Return the number of cells per side at a query, like `query`."""
        halvings = torch.stack([query >= start for start in _HALVINGS]).sum(0)
        return torch.where(halvings == len(_HALVINGS), grid, (2 * 2**halvings).clamp_max(grid))

    def _signs(self, state: Columns, query: Tensor, mean: Tensor) -> Tensor:
        """Return signs that are equal within the cells of the query's scale: those of each cell's first place."""
        grid = mean.shape[2]
        cells = self._cells_at(query, grid)[:, None]
        cell = torch.arange(grid, device=mean.device) * cells // grid  # (rows, grid)
        first = (cell * grid + cells - 1) // cells
        place = (first[:, :, None] * grid + first[:, None, :]).flatten(1)
        signs = super()._signs(state, query, mean)
        return signs.flatten(2).gather(2, place[:, None].expand(-1, mean.shape[1], -1)).view_as(mean)

    def _root_of_count(self, state: Columns) -> Tensor:
        theta = state["theta"]
        return math.sqrt(theta.shape[1]) * self._cells_at(state["step"], theta.shape[2])

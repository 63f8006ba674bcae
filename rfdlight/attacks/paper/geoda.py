"""GeoDA as its published code queries, ends and reports success."""

import torch
from torch import Tensor

from rfdlight.attacks.geoda import GeoDA, query_split
from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.core import norms
from rfdlight.core.tensors import Columns


class PublishedGeoDA(GeoDA):
    """GeoDA that queries the clean image first, and clips the points of walks alone."""

    first_try = 0

    def in_range(self, points: Tensor) -> Tensor:
        return points


class PaperGeoDA(PaperBehaviour[GeoDA]):
    """Checks its budget between iterations and starts, ends with its split, and confirms success by votes."""

    steps = PublishedGeoDA
    confirmed_by_votes = True

    def _begins(self, state: Columns) -> Tensor:
        """Return the rows that have found a boundary point and not yet probed, (rows,) bool."""
        return (state["phase"] == self.attack.PROBE) & (state["probed"] == 0)

    def between_iterations(self, state: Columns) -> Tensor:
        return self._begins(state) | (state["phase"] == self.attack.START)

    def ended(self, state: Columns, evaluated: Tensor) -> Tensor:
        done = torch.zeros_like(state["y"], dtype=torch.bool)
        for budget in state["budget"].unique().tolist():
            iterations = len(query_split(budget // self.attack.eot))
            done |= (state["budget"] == budget) & (state["iteration"] >= iterations)
        return super().ended(state, evaluated) | (self._begins(state) & done)

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        distance = state["high"] * norms.norm(state["far"] - state["x"], self.attack.norm)
        return self._begins(state) & (distance <= self.attack.threat.eps)

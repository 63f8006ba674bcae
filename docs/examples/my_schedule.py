"""Two schedules of one's own, for any noise defense: from the queries billed so far to the factor of sigma.

rfdlight test --attack rays --defense input_noise --defense.schedule my_schedule.warming
rfdlight test --attack rays --defense input_noise --defense.schedule my_schedule.Step --defense.schedule.queries 20
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def warming(clock: Tensor) -> Tensor:
    """Grow from 0 to 1 over the first 100 queries of each image."""
    return (clock / 100).clamp_max(1.0)


@dataclass
class Step:
    """Stay at 1 for so many queries of each image, then go to another factor."""

    queries: int = 100
    factor: float = 2.0

    def __call__(self, clock: Tensor) -> Tensor:
        return torch.where(clock < self.queries, 1.0, self.factor)

"""RayS as its published code ends and submits."""

import torch
from torch import Tensor

from rfdlight.attacks.paper.base import PaperBehaviour
from rfdlight.attacks.rays import RayS
from rfdlight.core.tensors import Columns, per_row


def _nearest(attack: RayS, state: Columns) -> tuple[Tensor, Tensor]:
    """Return the nearest point found, and whether it lies in the ball."""
    point = attack.point(state["x"], state["direction"], state["radius"])
    return point, attack.threat.contains(state["x"], point) & state["radius"].isfinite()


class PublishedRayS(RayS):
    """RayS that submits the nearest point that it found."""

    def best(self, state: Columns) -> Tensor:
        point, inside = _nearest(self, state)
        return torch.where(per_row(inside, point), point, super().best(state))


class PaperRayS(PaperBehaviour[RayS]):
    """Checks its budget between directions, and reports success by the radius alone."""

    steps = PublishedRayS

    def between_iterations(self, state: Columns) -> Tensor:
        return state["phase"] == self.attack.CHECK

    def reports_success(self, state: Columns, adversarial: Tensor) -> Tensor:
        return _nearest(self.attack, state)[1]

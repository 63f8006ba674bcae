"""The random noise baseline."""

import math

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core import rng
from rfdlight.core.tensors import Columns, per_row


class RandomNoise(Attack):
    """Random noise: decision-based baseline in linf or l2 that tries random signs on the surface of the ball.

    Each point is clip(x + eps s) in linf and clip(x + eps s / sqrt(d)) in l2, with new independent signs s. The last
    adversarial point is submitted. Every attack should do better.
    """

    access = "decision"
    norms = ("linf", "l2")
    has_targeted_form = True

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {
            "step": torch.zeros_like(y),  # points queried
            "found": torch.zeros_like(y),  # the number of the last adversarial point, else of the last point
            "success": torch.zeros_like(y, dtype=torch.bool),  # whether any point was adversarial
        }

    def _point(self, state: Columns, number: Tensor) -> Tensor:
        x = state["x"]
        size = self.threat.eps
        if self.norm == "l2":
            size /= math.sqrt(x[0].numel())
        signs = rng.signs(state["seed"], 0, number, tuple(x.shape[1:]))
        return (x + size * signs).clamp_(0, 1)

    def ask(self, state: Columns) -> Tensor:
        return self._point(state, state["step"])

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        adversarial = self.is_adversarial(state, answer)
        state["found"] = torch.where(adversarial | ~state["success"], state["step"], state["found"])
        state["success"] = state["success"] | adversarial
        state["step"] = state["step"] + 1

    def best(self, state: Columns) -> Tensor:
        point = self._point(state, state["found"])
        return torch.where(per_row(state["step"] == 0, point), state["x"], point)

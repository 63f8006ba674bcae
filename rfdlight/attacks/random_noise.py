"""The baseline that every attack has to beat."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core import rng
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row


class RandomNoise(Attack):
    """Tries random signs on the surface of the ball, one after the other, and learns nothing.

    Each point is clip(x + eps s) in linf and clip(x + eps s / sqrt(d)) in l2, with new independent
    signs s. It reads labels, and keeps the number of the last point that was misclassified (as the
    target, if there is one).

    State:
        step: (rows,) int64, points asked so far.
        found: (rows,) int64, the number of the last misclassified point, else of the last point.
        wrong: (rows,) bool, whether any point was misclassified.

    Queries:
        One per point.
    """

    access = "decision"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    has_targeted_form = True

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        step = torch.zeros_like(y)
        return {"step": step, "found": step.clone(), "wrong": torch.zeros_like(y, dtype=torch.bool)}

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
        state["claim"] = wrong = self.is_adversarial(state, answer)
        keep = wrong | ~state["wrong"]
        state["found"] = torch.where(keep, state["step"], state["found"])
        state["wrong"] = state["wrong"] | wrong
        state["step"] = state["step"] + 1

    def best(self, state: Columns) -> Tensor:
        point = self._point(state, state["found"])
        return torch.where(per_row(state["step"] == 0, point), state["x"], point)

    def reports_success(self, state: Columns) -> Tensor:
        return state["claim"]

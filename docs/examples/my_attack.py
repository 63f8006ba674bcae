"""An attack of one's own: score-based random search over sign patterns.

Usage: rfdlight test --attack my_attack.MyAttack --attack.share 0.05
"""

import torch
from torch import Tensor

from rfdlight.attacks import Attack
from rfdlight.core import rng
from rfdlight.core.losses import margin
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row


class MyAttack(Attack):
    """Negates a random share of the perturbation's signs, and keeps that if the margin falls."""

    access = "score"

    def __init__(self, share: float = 0.02, eps: float | None = None, norm: Norm = "linf") -> None:
        super().__init__(eps, norm)
        self.share = share

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        step = torch.zeros_like(y)
        loss = torch.full_like(y, torch.inf, dtype=torch.float32)
        return {"signs": rng.signs(seed, 0, step, tuple(x.shape[1:])), "loss": loss, "step": step}

    def ask(self, state: Columns) -> Tensor:
        x = state["x"]
        draw = rng.uniform(state["seed"], 1, state["step"], x[0].numel()).view_as(x)
        state["trial"] = torch.where(draw < self.share, -state["signs"], state["signs"])
        return torch.add(x, state["trial"], alpha=self.threat.eps).clamp_(0, 1)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss = margin(answer, state["y"])
        better = loss < state["loss"]
        state["signs"] = torch.where(per_row(better, points), state["trial"], state["signs"])
        state["loss"] = torch.where(better, loss, state["loss"])
        state["step"] = state["step"] + 1

    def best(self, state: Columns) -> Tensor:
        return torch.add(state["x"], state["signs"], alpha=self.threat.eps).clamp_(0, 1)

"""An attack in a package of its own: random search over single pixels."""

import torch
from torch import Tensor

from rfdlight.attacks import Attack
from rfdlight.core import rng
from rfdlight.core.losses import margin
from rfdlight.core.tensors import Columns, per_row


class OnePixel(Attack):
    """Random pixel search: score-based attack in linf that moves one random pixel value by eps if the margin falls."""

    access = "score"

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {"point": x.clone(), "loss": torch.full_like(y, torch.inf, dtype=torch.float32), "step": 0 * y}

    def ask(self, state: Columns) -> Tensor:
        x = state["x"].flatten(1)
        draw = rng.uniform(state["seed"], 0, state["step"], 2)
        index = (draw[:, :1] * x.shape[1]).long()
        moved = x.gather(1, index) + torch.where(draw[:, 1:] < 0.5, -self.threat.eps, self.threat.eps)
        trial = state["point"].flatten(1).scatter(1, index, moved.clamp(0, 1).to(x.dtype))
        first = per_row(state["step"] == 0, state["x"])
        return torch.where(first, state["x"], trial.view_as(state["x"]))

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss = margin(answer, state["y"])
        better = loss < state["loss"]
        state["point"] = torch.where(per_row(better, points), points, state["point"])
        state["loss"] = torch.where(better, loss, state["loss"])
        state["step"] = state["step"] + 1

    def best(self, state: Columns) -> Tensor:
        return state["point"]

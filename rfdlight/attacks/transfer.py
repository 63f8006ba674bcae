"""The transfer attack."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rfdlight.attacks.base import check_count, check_positive
from rfdlight.attacks.gradient_estimation import unit
from rfdlight.attacks.pgd import random_point
from rfdlight.attacks.surrogate import SurrogateAttack
from rfdlight.core.losses import Loss, attacker_loss
from rfdlight.core.tensors import Columns, per_row
from rfdlight.errors import UserError


class Transfer(SurrogateAttack):
    """Transfer attack: score-based attack with adversarial examples of a surrogate, in linf or l2.

    A run of MI-FGSM on the surrogate takes `steps` steps along g, where g is `momentum` times the last g plus the
    gradient of the loss divided by its l1 norm: along the signs of g in linf, its direction in l2. The first run starts
    at the image, others at random points of the ball. Their last points are queried in the order of the surrogate's
    loss, the lowest first, and then again and again. The point with the lowest mean margin of the victim's answers is
    submitted, before the first answer the first point. Queries: one per point, and any number of repetitions.

    With momentum 0 a run is PGD on the surrogate: Madry et al., ICLR 2018.

    Source: Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, algorithm 1, with its constants.
    Deviations: several starts; points are clipped to [0, 1] at each step.

    Args:
        surrogate: A network from pixels in [0, 1] to logits of the victim's classes, or its name.
        points: Runs on the surrogate, each of which gives one point, >= 1.
        steps: Steps of a run, >= 1.
        step: Length of a step in pixel units, > 0; by default eps / steps.
        momentum: Weight of the last direction, >= 0.
        loss: Loss on the surrogate: "cross_entropy", the paper's, or "margin".
    """

    access: ClassVar[Literal["decision", "score", "gradient"]] = "score"
    norms = ("linf", "l2")
    has_targeted_form = True

    def __init__(
        self,
        surrogate: Any = None,
        points: int = 5,
        steps: int = 10,
        step: float | None = None,
        momentum: float = 1.0,
        loss: Loss = "cross_entropy",
        **ball: Any,
    ) -> None:
        super().__init__(surrogate, **ball)
        check_count(points=points, steps=steps)
        check_positive(step=step)
        if not 0 <= momentum < float("inf"):
            raise UserError(f"attack.momentum must be a finite number of at least 0, got {momentum}")
        self.points = points
        self.steps = steps
        self.step = step
        self.momentum = momentum
        self.loss = loss

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {
            "points": torch.zeros(len(x), self.points, *x.shape[1:], dtype=x.dtype, device=x.device),
            "total": torch.zeros(len(x), self.points, device=x.device),  # of the victim's margins at each point
            "step": torch.zeros_like(y),  # queries
        }

    def _run(self, state: Columns, number: int) -> tuple[Tensor, Tensor]:
        """Return the last points of a run on the surrogate, and its loss there."""
        x, seed = state["x"], state["seed"]
        length = self.threat.eps / self.steps if self.step is None else self.step
        point = random_point(self.threat, x, seed, torch.full_like(seed, number)) if number else x
        direction = torch.zeros_like(x)
        for _ in range(self.steps):
            _, gradient = self.on_surrogate(state, point)
            direction = self._turned(direction, gradient)
            along = direction.sign() if self.norm == "linf" else unit(direction)
            point = self.threat.project(x, point - length * along)
        return point, self.on_surrogate(state, point)[0]

    def _turned(self, direction: Tensor, gradient: Tensor) -> Tensor:
        """Return the next direction of a run."""
        size = gradient.flatten(1).abs().sum(1).clamp_min(1e-30)
        return self.momentum * direction + gradient / per_row(size, gradient)

    def _made(self, state: Columns) -> Tensor:
        """Return the points of rows without queries, (rows, points, C, H, W), by the surrogate's loss, lowest first."""
        runs = [self._run(state, number) for number in range(self.points)]
        points, losses = (torch.stack(each, 1) for each in zip(*runs, strict=True))
        order = losses.argsort(dim=1, stable=True)
        return points[torch.arange(len(order), device=order.device)[:, None], order]

    def _points(self, state: Columns) -> Tensor:
        """Return the points of all rows, made where there was no query yet."""
        fresh = state["step"] == 0
        if not fresh.any():
            return state["points"]
        points = state["points"].clone()
        points[fresh] = self._made({name: state[name][fresh] for name in ("x", "y", "target", "seed")})
        return points

    def _chosen(self, points: Tensor, index: Tensor) -> Tensor:
        return points[torch.arange(len(index), device=index.device), index]

    def ask(self, state: Columns) -> Tensor:
        state["points"] = self._points(state)
        return self._chosen(state["points"], state["step"] % self.points)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        margin = attacker_loss(answer, state["y"], state["target"])
        number = torch.arange(self.points, device=margin.device)
        current = number == (state["step"] % self.points)[:, None]
        state["total"] = state["total"] + torch.where(current, margin[:, None], 0.0)
        state["step"] = state["step"] + 1

    def best(self, state: Columns) -> Tensor:
        number = torch.arange(self.points, device=state["step"].device)
        answers = (state["step"][:, None] + self.points - 1 - number) // self.points
        mean = torch.where(answers > 0, state["total"] / answers.clamp_min(1), torch.inf)
        return self._chosen(self._points(state), mean.argmin(1))

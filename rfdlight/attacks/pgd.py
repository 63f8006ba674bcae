"""The PGD attack (projected gradient descent)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack, check_count, check_positive
from rfdlight.attacks.gradient_estimation import short_of_the_ball, unit
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.tensors import Columns, per_row
from rfdlight.core.threat import ThreatModel


class PGD(Attack):
    """PGD: white-box projected gradient descent on the attacker's loss, in linf or l2.

    A run takes `steps` steps along the sign of the gradient in linf, along the gradient in l2. One more query is a
    success check at the last point. The next run starts at a random point of the ball. With a budget of `steps`, the
    last point of one run is submitted: the PGD-k of the literature.

    Source: Madry, Makelov, Schmidt, Tsipras, Vladu, Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR
    2018, sections 2.1 and 4. Behind random defenses each gradient is the mean over `--model.eot` evaluations: Athalye,
    Carlini, Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018, section 4.2.
    Deviations: every point on the way can be a success, not only the last one; in l2, the start is a random direction
    times a uniform length.

    Args:
        steps: Steps of a run, >= 1.
        step: Length of a step in pixel units, > 0; by default 2.5 eps / steps.
        random_start: Whether the first run, too, starts at a random point of the ball.
        loss: "cross_entropy", the paper's, or "margin".
    """

    access = "gradient"
    norms = ("linf", "l2")
    has_targeted_form = True

    def __init__(
        self,
        steps: int = 10,
        step: float | None = None,
        random_start: bool = True,
        loss: Loss = "cross_entropy",
        **ball: Any,
    ) -> None:
        super().__init__(**ball)
        check_count(steps=steps)
        check_positive(step=step)
        self.steps = steps
        self.step = step
        self.random_start = random_start
        self.loss = loss

    @property
    def step_length(self) -> float:
        """Length of a step in pixel units."""
        return 2.5 * self.threat.eps / self.steps if self.step is None else self.step

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        run = torch.zeros_like(y)
        point = self._start(x, seed, run) if self.random_start else x.clone()
        final = x.clone()  # the last point of the last complete run
        return {"point": point, "final": final, "run": run, "taken": run.clone()}  # complete runs, steps of this one

    def _start(self, x: Tensor, seed: Tensor, run: Tensor) -> Tensor:
        return random_point(self.threat, x, seed, run)

    def ask(self, state: Columns) -> Tensor:
        return state["point"].clone()  # the engine uses the points after the column has changed

    def is_success_check(self, state: Columns) -> Tensor:
        return state["taken"] == self.steps

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        x, over = state["x"], state["taken"] == self.steps
        uphill = answer.sign() if self.norm == "linf" else unit(answer)
        moved = self.threat.project(x, state["point"] - self.step_length * uphill)
        if over.any():
            state["run"] = state["run"] + over
            moved[over] = self._start(x[over], state["seed"][over], state["run"][over])
            state["final"] = torch.where(per_row(over, x), points, state["final"])
        state["point"] = moved
        state["taken"] = torch.where(over, 0, state["taken"] + 1)

    def best(self, state: Columns) -> Tensor:
        return torch.where(per_row(state["run"] == 0, state["x"]), state["point"], state["final"])

    def budget_warning(self, budget: int) -> str | None:
        return short_of_the_ball(min(budget, self.steps), self.step_length, self.threat.eps)


def random_point(threat: ThreatModel, x: Tensor, seed: Tensor, number: Tensor) -> Tensor:
    """Return random points of the balls around images, in l2 along a random direction at a uniform distance."""
    if threat.norm == "linf":
        draws = rng.uniform(seed, 0, number, x[0].numel()).to(x.dtype).view_as(x)
        offset = (2 * draws - 1) * threat.eps
    else:
        length = rng.uniform(seed, 1, number, 1).to(x.dtype)[:, 0] * threat.eps
        offset = unit(rng.normal(seed, 0, number, tuple(x.shape[1:]))) * per_row(length, x)
    return threat.project(x, x + offset)


def perturb(attack: PGD, gradient: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """Return the last point of one run of an untargeted attack, for adversarial training.

    `gradient` returns the gradients of the attacker's loss at points.
    """
    state = {"x": x, "y": y, "seed": seed, **attack.init(x, y, seed)}
    for _ in range(attack.steps):
        points = attack.ask(state)
        attack.tell(state, points, gradient(points))
    return attack.best(state)

"""Projected gradient descent, the white-box attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from rfdlight.attacks.ascent import advance, short_of_the_ball, unit
from rfdlight.attacks.base import Attack
from rfdlight.attacks.options import check_count, check_positive
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row


class PGD(Attack):
    """Descends the victim's own gradient in steps that are projected on the ball: a white-box attack.

    A run takes `steps` steps, each of length `step` along the sign of the gradient in linf and along the
    gradient in l2. Then one more query looks at the run's last point, and a new run starts at a random point.
    With a budget of `steps`, what is submitted is the last point of one run: the PGD-k of the literature.

    Source: Madry, Makelov, Schmidt, Tsipras, Vladu, Towards Deep Learning Models Resistant to Adversarial
    Attacks, ICLR 2018, sections 2.1 and 4. Behind random defenses, each gradient is the mean over `--model.eot`
    draws: Athalye, Carlini, Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018, section 4.2.
    Deviations: every point on the way counts, not only the last one; in l2, a start is a random direction times a
    uniform length.

    Args:
        steps: Of a run, >= 1.
        step: Length of a step in pixel units; by default 2.5 eps / steps.
        random_start: Whether already the first run starts at a random point of the ball; the later ones do.
        loss: "cross_entropy", the paper's, or "margin".
        ball: `eps`, `norm` and `targeted`, as for every attack.

    State:
        point: Like x, where the gradient is asked next.
        final: Like x, the last point of the last complete run.
        run: (rows,) int64, complete runs.
        taken: (rows,) int64, steps of the present run.

    Queries:
        One per gradient, and one at the last point of every run.

    Raises:
        UserError: If `steps` or `step` is out of range.
    """

    access = "gradient"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
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
        return {"point": point, "final": x.clone(), "run": run, "taken": run.clone()}

    def _start(self, x: Tensor, seed: Tensor, run: Tensor) -> Tensor:
        shape = tuple(x.shape[1:])
        if self.norm == "linf":
            draws = rng.uniform(seed, 0, run, x[0].numel()).to(x.dtype).view_as(x)
            offset = (2 * draws - 1) * self.threat.eps
        else:
            length = rng.uniform(seed, 1, run, 1).to(x.dtype)[:, 0] * self.threat.eps
            offset = unit(rng.normal(seed, 0, run, shape)) * per_row(length, x)
        return self.threat.project(x, x + offset)

    def ask(self, state: Columns) -> Tensor:
        return state["point"].clone()  # the column itself changes before the engine is done with the points

    def is_success_check(self, state: Columns) -> Tensor:
        return state["taken"] == self.steps

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        x, over = state["x"], state["taken"] == self.steps
        uphill = answer.sign() if self.norm == "linf" else unit(answer)
        moved = advance(self.threat, x, state["point"], -self.step_length * uphill, clip=True)
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


def perturb(attack: PGD, gradient: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """Return the last point of one run of an untargeted attack, as training against it needs.

    Args:
        attack: The attack.
        gradient: From points, like `x`, to the gradients of what the attacker lowers, like `x`.
        x: (rows, C, H, W) in [0, 1].
        y: (rows,) int64, the labels.
        seed: (rows,) int64, the keys of the random starts.
    """
    state = {"x": x, "y": y, "seed": seed, **attack.init(x, y, seed)}
    for _ in range(attack.steps):
        points = attack.ask(state)
        attack.tell(state, points, gradient(points))
    return attack.best(state)

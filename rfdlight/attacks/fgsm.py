"""The FGSM attack (fast gradient sign method)."""

from typing import Any

from rfdlight.attacks.pgd import PGD
from rfdlight.core.losses import Loss


class FGSM(PGD):
    """FGSM: white-box attack in linf or l2 with one step along the gradient, to the surface of the ball.

    It is `PGD` with one step: a query for the gradient, a success check, and new runs from random points.

    Source: Goodfellow, Shlens, Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015, section 4; with the
    random start, Wong, Rice, Kolter, Fast is Better than Free, ICLR 2020, section 4.1.

    Args:
        step: Length of the step in pixel units, > 0; by default eps, or 1.25 eps with `random_start`.
        random_start: Whether the first step, too, starts at a random point of the ball.
        loss: "cross_entropy", the paper's, or "margin".
    """

    fixed_options = ("steps",)

    def __init__(
        self, step: float | None = None, random_start: bool = False, loss: Loss = "cross_entropy", **ball: Any
    ) -> None:
        super().__init__(steps=1, step=step, random_start=random_start, loss=loss, **ball)

    @property
    def step_length(self) -> float:
        if self.step is not None:
            return self.step
        return (1.25 if self.random_start else 1.0) * self.threat.eps

"""The fast gradient sign method, the cheapest white-box attack."""

from __future__ import annotations

from typing import Any

from rfdlight.attacks.pgd import PGD
from rfdlight.core.losses import Loss


class FGSM(PGD):
    """Takes one step along the victim's own gradient, from the image to the surface of the ball: a white-box attack.

    In linf the point is clip(x + eps sign(gradient)). With `random_start`, the step of 1.25 eps starts at a
    random point of the ball and is projected. It is `PGD` with one step: queries come in pairs, the gradient
    and the look at the point that it leads to, and after the first pair every pair starts at a random point.

    Source: Goodfellow, Shlens, Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015, section 4;
    with the random start, Wong, Rice, Kolter, Fast is Better than Free, ICLR 2020, section 4.1.

    Args:
        step: Length of the step in pixel units; by default eps, or 1.25 eps with `random_start`.
        random_start: Whether already the first step starts at a random point of the ball.
        loss: "cross_entropy", the paper's, or "margin".
        ball: `eps`, `norm` and `targeted`, as for every attack.

    Raises:
        UserError: If `step` is out of range.
    """

    def __init__(
        self,
        step: float | None = None,
        random_start: bool = False,
        loss: Loss = "cross_entropy",
        **ball: Any,
    ) -> None:
        super().__init__(steps=1, step=step, random_start=random_start, loss=loss, **ball)

    @property
    def step_length(self) -> float:
        """Length of the step in pixel units."""
        if self.step is not None:
            return self.step
        return (1.25 if self.random_start else 1.0) * self.threat.eps

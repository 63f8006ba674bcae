"""The decision-based form of the Bernoulli attack."""

from torch import Tensor

from rfdlight.attacks.bernoulli import Bernoulli
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns


class BernoulliDecision(Bernoulli):
    """Bernoulli attack on labels: decision-based, with the loss 0 at adversarial answers and 1 at all others.

    theta moves only once the answers differ, by much at a rare one. So this attack is one against random victims, and
    against others for images near the boundary.

    Source: see `rfdlight.attacks.bernoulli`.

    Args:
        grid: Cells per side of the image, from 1 to the shorter side; by default that side, at most 50.
        rate: Step of theta in units of 4 / sqrt(number of signs), > 0; by default 1.6 in linf and 0.4 in l2.
        eps: Radius of the ball in pixel units, > 0; by default, in linf, the data set's reference radius.
        norm: "linf" or "l2".
        targeted: Whether the attack has to reach a target class.
    """

    access = "decision"

    def __init__(
        self,
        grid: int | None = None,
        rate: float | None = None,
        eps: float | None = None,
        norm: Norm | None = None,
        targeted: bool = False,
    ) -> None:  # no loss, which only scores have
        super().__init__(grid=grid, rate=rate, eps=eps, norm=norm, targeted=targeted)

    def _losses(self, state: Columns, answer: Tensor) -> Tensor:
        return (~self.is_adversarial(state, answer)).float()

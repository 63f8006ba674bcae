"""The NES attack."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import check_count, check_positive
from rfdlight.attacks.gradient_estimation import SummedProbes, by_size
from rfdlight.attacks.refusals import OnRefusal, check_on_refusal, doubled, taken_back
from rfdlight.core import rng
from rfdlight.core.losses import Loss
from rfdlight.core.tensors import Columns, per_row

_PAIRS = {"linf": 20, "l2": 15}
_SIGMA = {"linf": 0.1, "l2": 0.005}  # the paper's, for images of 224 pixels
_STEP = {"linf": 0.01, "l2": 1.0}  # the paper's


class NES(SummedProbes):
    """NES: score-based gradient estimation from pairs of opposite Gaussian probes, in linf or l2.

    An iteration draws n times u from N(0, I), queries x_t + sigma u and x_t - sigma u, and sums the slopes
    (L(x_t - sigma u) - L(x_t + sigma u)) / (2 sigma) times u, with L the attacker's loss. It steps along the sum (l2)
    or its signs (linf) and projects on the ball around the clean image and [0, 1]. The last of its 2n + 1 queries is a
    success check at the new iterate.

    Source: Ilyas, Engstrom, Athalye, Lin, Black-box Adversarial Attacks with Limited Queries and Information, ICML
    2018, algorithm 1, with the constants of Nguyen et al., ICLR 2024, see `rfdlight.attacks.paper`.
    Deviations: no momentum and no step decay; the margin by default; probes are clipped to [0, 1]; the success check is
    billed.
    `on_refusal` "adapt" follows OARS, Feng et al., Stateful Defenses for Machine Learning Models Are Not Yet Secure
    Against Black-box Attacks, CCS 2023, written without its code: refused queries are redrawn, and the refusals tune
    how much queries differ. A refused probe restarts its pair with another draw and twice the sigma; a refused success
    check is left out, and the next step is twice as long. Each answered pair and each answered check takes an eighth of
    a doubling back; the most is 64 times. Deviation: the paper first searches both values.

    Args:
        pairs: Pairs of probes per iteration, n, >= 1; by default 20 in linf, 15 in l2.
        sigma: Standard deviation of a probe per pixel value, > 0; by default 0.1 s / 224 in linf for images of shorter
            side s, at most 0.1, and 0.005 in l2; under the paper's query counting 0.1 and 0.005. Others divide by the
            square root of the number of values.
        step: Length of a step, per pixel value in linf and in l2 norm in l2, > 0; by default 0.01 in linf and 1.0 in l2
            (the paper's, for images of 224 x 224 pixels).
        loss: "margin" or "cross_entropy".
        on_refusal: What follows where a query policy refuses to answer: the "end" of the attack, or "adapt".
    """

    has_targeted_form = True

    def __init__(
        self,
        pairs: int | None = None,
        sigma: float | None = None,
        step: float | None = None,
        loss: Loss = "margin",
        on_refusal: OnRefusal = "end",
        **ball: Any,
    ) -> None:
        super().__init__(**ball)
        check_on_refusal(on_refusal)
        check_count(pairs=pairs)
        check_positive(sigma=sigma, step=step)
        self.pairs = _PAIRS[self.norm] if pairs is None else pairs
        self.sigma = sigma
        self.step = _STEP[self.norm] if step is None else step
        self.loss = loss
        self.on_refusal = on_refusal

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        columns = super().init(x, y, seed)
        if self.on_refusal == "adapt":
            none = torch.zeros_like(y, dtype=torch.float32)
            columns["wider"] = none  # the binary logarithm of the probe's size, in units of `probe_size`
            columns["longer"] = none.clone()  # that of the step, in units of `step`
            columns["redrawn"] = torch.zeros_like(y)  # pairs
        return columns

    def probe_size(self, x: Tensor) -> float:
        """Return the standard deviation of a probe per pixel value."""
        if self.sigma is not None:
            return self.sigma
        if self.paper_constants or self.norm == "l2":
            return _SIGMA[self.norm]
        return by_size(_SIGMA[self.norm], x)

    def _probe_size(self, state: Columns) -> Tensor | float:
        """Return the size of a row's probes, one for all rows or (rows,)."""
        size = self.probe_size(state["x"])
        return size if self.on_refusal == "end" else size * 2 ** state["wider"]

    def step_length(self, state: Columns) -> Tensor | float:
        return self.step if self.on_refusal == "end" else self.step * per_row(2 ** state["longer"], state["x"])

    @property
    def cycle(self) -> int:
        return 2 * self.pairs + 1

    def ask(self, state: Columns) -> Tensor:
        x, position = state["x"], self.position(state)
        # Both probes of a pair have the same number; the success check draws too, and does not use it.
        pair = torch.add(position // 2, state["queries"] // self.cycle, alpha=self.pairs)
        if self.on_refusal == "adapt":
            pair += state["redrawn"]  # pairs and redrawn pairs rise, so that no number comes again
        state["draw"] = draw = rng.normal(state["seed"], 0, pair, tuple(x.shape[1:]))
        state["position"], state["side"] = position, _sides(self.pairs, x.device)[position]
        return self.in_range(
            (per_row(state["side"] * self._probe_size(state), x).to(x.dtype) * draw).add_(state["point"])
        )

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        loss, first = self.objective(state, answer), state["first"]
        alone = state["side"] >= 0  # no second probe of a pair
        slope = ((loss - first) / (2 * self._probe_size(state))).masked_fill_(alone, 0.0)
        torch.where(alone, loss.to(first.dtype), first, out=first)
        self.collect(state, slope, state["position"] == 2 * self.pairs - 1)
        if self.on_refusal == "adapt":  # both probes of a pair have one size
            for name, done in (("wider", state["side"] < 0), ("longer", state["side"] == 0)):
                state[name] = taken_back(state[name], done)

    def refused(self, state: Columns, points: Tensor) -> bool:
        if self.on_refusal == "end":
            return False
        position = self.position(state)
        check = position == self.cycle - 1
        state["wider"] = doubled(state["wider"], ~check)
        state["longer"] = doubled(state["longer"], check)
        state["redrawn"] = state["redrawn"] + ~check
        state["queries"] = state["queries"] + torch.where(check, 1, -(position % 2))
        return True


@lru_cache
def _sides(pairs: int, device: torch.device) -> Tensor:
    """Return the signs of the draws in the queries of a cycle, (cycle,) int64: 0 for the success check."""
    with torch.inference_mode(False):
        return torch.tensor([1, -1] * pairs + [0], device=device)

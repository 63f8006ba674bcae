"""Square Attack for victims that answer at random."""

from typing import Any, Literal

import torch
from torch import Tensor

from rfdlight.attacks.answer_noise import answers_vary, is_measured
from rfdlight.attacks.base import check_count, check_positive
from rfdlight.attacks.square import Square
from rfdlight.core.losses import Loss
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns, per_row, replace

_LONG = 10_000  # evaluations of the schedule behind noise
_KEPT, _PROPOSED = range(2)


class AdaptiveSquare(Square):
    """Square Attack with races: score-based random search whose comparisons are of means of repeated answers.

    The proposals are Square's. The kept point and the proposal each have a mean loss. Until these differ by `level`
    standard errors, or the proposal has `most` answers, the one with fewer answers is queried again; the variance of an
    answer is pooled over all points. A later race also corrects the mean of a kept point that was lucky. The start is
    queried twice, and three times more if the answers vary. Where they do not, everything else is as in Square.

    Source: the proposals are those of Andriushchenko, Croce, Flammarion, Hein, Square Attack, ECCV 2020, see
    `rfdlight.attacks.square`; races of noisy candidates are those of Heidrich-Meisner and Igel, Hoeffding and Bernstein
    Races for Selecting Policies in Evolutionary Direct Policy Search, ICML 2009.
    Deviations: as Square's; standard errors of a normal distribution in the place of Hoeffding's or Bernstein's bounds.

    Args:
        p: Share of the pixels in the first squares, in (0, 1]; by default that of `Square`, under the paper's query
            counting too.
        schedule_len: Evaluations or iterations over which the squares shrink, >= 1; by default 10,000 where answers
            vary, and the budget where they do not.
        schedule_clock: Whether the schedule counts "evaluations" or "iterations", that is proposals alone.
        level: Standard errors of the difference of two means from which a race is decided, > 0.
        most: Answers of a proposal after which the lower mean wins, >= 1.
        loss: "margin" or "cross_entropy".
        eps: Radius of the ball in pixel units, > 0; by default, in linf, the data set's reference radius.
        norm: "linf" or "l2".
        targeted: Whether the attack has to reach a target class.
    """

    def __init__(
        self,
        p: float | None = None,
        schedule_len: int | None = None,
        schedule_clock: Literal["evaluations", "iterations"] | None = None,
        level: float = 0.5,
        most: int = 8,
        loss: Loss = "margin",
        eps: float | None = None,
        norm: Norm | None = None,
        targeted: bool = False,
    ) -> None:  # no refresh, which races replace
        ball: dict[str, Any] = {"eps": eps, "norm": norm, "targeted": targeted}
        super().__init__(p=p, schedule_len=schedule_len, schedule_clock=schedule_clock, loss=loss, **ball)
        check_count(most=most)
        check_positive(level=level)
        self.level = level
        self.most = most

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        columns = super().init(x, y, seed)
        none = torch.zeros(len(x), 2, device=x.device)
        return {
            **columns,
            "refreshing": torch.ones_like(columns["refreshing"]),  # the start is the first kept point
            "loss": none,  # means of the answers at the kept point and at the proposal
            "answers": none.clone(),  # their numbers
            "squares": none[:, 0].clone(),  # of the deviations from these means, summed over all points
            "freedom": none[:, 0].clone(),  # degrees of freedom of the squares
            "time": torch.zeros_like(y),  # of the schedule at the first query of the proposal
            "length": torch.ones_like(y),  # of the schedule then
        }

    def _noise(self, state: Columns) -> Tensor:
        """Return the variance of an answer, (rows,)."""
        return state["squares"] / state["freedom"].clamp_min(1)

    def _default_length(self, state: Columns) -> Tensor:
        return state["length"]

    def _time(self, state: Columns) -> Tensor:
        return state["time"]

    def ask(self, state: Columns) -> Tensor:
        # The same proposal is queried until its race ends.
        new = state["answers"][:, _PROPOSED] == 0
        random = answers_vary(self._noise(state), state["loss"][:, _KEPT])
        state["time"] = torch.where(new, super()._time(state), state["time"])
        state["length"] = torch.where(new, torch.where(random, _LONG, state["budget"]), state["length"])
        # Also where the kept point is queried: its answer may end the race.
        state["proposal"] = self._proposal(state, state["step"] > 0)
        kept = state[self._kept]
        return self._point(state["x"], torch.where(per_row(state["refreshing"], kept), kept, state["proposal"]))

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        queried = torch.where(state["refreshing"], _KEPT, _PROPOSED)[:, None]
        before, mean = state["answers"].gather(1, queried), state["loss"].gather(1, queried)
        change = self.objective(state, answer)[:, None] - mean
        state["squares"] = state["squares"] + (change.square() * before / (before + 1))[:, 0]
        state["freedom"] = state["freedom"] + (before > 0)[:, 0]
        loss = state["loss"].scatter(1, queried, mean + change / (before + 1))
        answers = state["answers"].scatter(1, queried, before + 1)

        gap = loss[:, _PROPOSED] - loss[:, _KEPT]
        error = (self._noise(state) * (1 / answers.clamp_min(1)).sum(1)).sqrt()
        racing = answers[:, _PROPOSED] > 0
        ended = racing & ((gap.abs() >= self.level * error) | (answers[:, _PROPOSED] >= self.most))
        better = ended & (gap < 0)
        kept = state[self._kept]
        replace(kept, better, state["proposal"])
        for name, column in (("loss", loss), ("answers", answers)):
            column[:, _KEPT] = torch.where(better, column[:, _PROPOSED], column[:, _KEPT])
            column[:, _PROPOSED].masked_fill_(ended, 0.0)
            state[name] = column

        started = (state["step"] == 0) & is_measured(answers[:, _KEPT], self._noise(state), loss[:, _KEPT])
        state["step"] = state["step"] + (ended | started)
        state["queries"] = state["queries"] + 1
        fewer = answers[:, _KEPT] <= answers[:, _PROPOSED]
        state["refreshing"] = (state["step"] == 0) | (racing & ~ended & fewer)

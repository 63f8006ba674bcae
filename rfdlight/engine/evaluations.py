"""Fresh evaluations of a point: mean margins, and sequential tests of their signs that are valid at any time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from scipy.special import betainc, betaln
from torch import Tensor

from rfdlight.records.records import HEAVY_TAIL

Verdict = Literal["robust", "adversarial", "undecided"]

ADVERSARIAL_LEVEL = 0.025
"""Largest probability of a wrong verdict "adversarial" at a final point, and at all candidates of an image together."""

ROBUST_LEVEL = 0.05
"""Largest probability of a wrong verdict "robust"."""

MOST_BEFORE_FINAL = 400
"""Most evaluations of a clean image and of a candidate; an image that is undecided then is attacked."""

_ADVERSARIAL_CAP, _ROBUST_CAP = 0.25, 0.5
"""Largest stakes, in units of the inverse of the largest margin seen.

Bets on "adversarial" are repeated for many candidates, of which one may have few contrary evaluations by chance, so
they are more careful about larger margins that have not occurred yet.
"""

_CAPS = (_ROBUST_CAP, _ADVERSARIAL_CAP)
"""Caps of bets that a mean margin is negative, in a targeted attack and otherwise."""

_LEAST_FACTOR = 1e-3
"""Factor of the wealth when a margin is far larger than all before; it only limits margins beyond twice the largest."""


@dataclass
class EvaluationState:
    """Sums over the fresh evaluations at each image's current point, and the wealth of bets on the mean margins.

    By Definition 1 of Nguyen et al., Understanding the Robustness of Randomized Feature Defense Against Query-Based
    Adversarial Attacks, ICLR 2024, a point in the ball is adversarial if the largest of the victim's mean logits is
    not the label's; in a targeted attack, if it is the target's. The margin to a class is the logit of the reference
    class, label or target, minus the logit of that class.

    A test of the sign of a mean margin multiplies its wealth by 1 - stake * margin, or 1 + stake * margin, at each
    evaluation. The stake depends on earlier evaluations alone. If the mean has the other sign, the expected wealth
    never grows, so it ever reaches 1 / level with a probability of at most the level (Ville's inequality), whenever
    the test stops.

    Source: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS-B 2024, section 4.
    Deviation: margins have no known bound, so stakes are limited by the largest margin seen.
    """

    reference: Tensor  # (rows,) int64, the target of an image under targeted attack, else its label
    targeted: Tensor  # (rows,) bool, whether the reference class is the target
    wanted: Tensor  # (rows,) int64, evaluations still to be made
    count: Tensor  # (rows,) int64, evaluations made
    adversarial: Tensor  # (rows,) int64, evaluations with an adversarial label
    margins: Tensor  # (rows, classes) float64, summed margins
    squares: Tensor  # (rows, classes) float64, summed squares of the margins
    lowest: Tensor  # (rows, classes) float64, smallest margins
    highest: Tensor  # (rows, classes) float64, largest margins
    largest: Tensor  # (rows, classes) float64, largest magnitudes of the margins at all points of the attack so far
    rival: Tensor  # (rows,) int64, the class whose margin the test of "some mean margin is negative" bets on
    stake_below: Tensor  # (rows,) float64, its stake
    below: Tensor  # (rows,) float64, log of its wealth
    stake_above: Tensor  # (rows, classes) float64, stakes of the tests of "the mean margin is positive"
    above: Tensor  # (rows, classes) float64, logs of their wealth

    @classmethod
    def open(cls, y: Tensor, classes: int, wanted: int) -> Self:
        """Return the state of new images with the labels `y`, which want some evaluations of the clean image."""

        def sums(*shape: int) -> Tensor:
            return torch.zeros(len(y), *shape, dtype=torch.float64, device=y.device)

        return cls(
            reference=y.clone(),
            targeted=torch.zeros_like(y, dtype=torch.bool),
            wanted=torch.full_like(y, wanted),
            count=torch.zeros_like(y),
            adversarial=torch.zeros_like(y),
            margins=sums(classes),
            squares=sums(classes),
            lowest=sums(classes).fill_(math.inf),
            highest=sums(classes).fill_(-math.inf),
            largest=sums(classes),
            rival=y.clone(),
            stake_below=sums(),
            below=sums(),
            stake_above=sums(classes),
            above=sums(classes),
        )

    def restart(self, rows: Tensor, wanted: int, keep_stakes: bool = False) -> None:
        """Reset the sums of some images and request so many fresh evaluations, at the same point to keep the stakes."""
        self.wanted[rows] = wanted
        self.drop_evidence(rows)
        for column in (self.count, self.adversarial, self.margins, self.squares):
            column[rows] = 0
        self.lowest[rows], self.highest[rows] = math.inf, -math.inf
        if not keep_stakes:
            self.stake_below[rows] = 0
            self.stake_above[rows] = 0

    def drop_evidence(self, rows: Tensor) -> None:
        """Let the tests of some images begin anew, with the evaluations to come; sums and stakes stay."""
        self.below[rows] = 0
        self.above[rows] = 0

    def add(self, rows: Tensor, logits: Tensor) -> None:
        """Add evaluations with logits (evaluations, classes) to the sums of their rows; a row may occur repeatedly."""
        reference = self.reference[rows]
        exact = logits.double()
        margins = exact.gather(1, reference[:, None]) - exact
        self.margins.index_add_(0, rows, margins)
        self.squares.index_add_(0, rows, margins.square())
        columns = rows[:, None].expand_as(margins)
        self.lowest.scatter_reduce_(0, columns, margins, "amin")
        self.highest.scatter_reduce_(0, columns, margins, "amax")
        self.largest.scatter_reduce_(0, columns, margins.abs(), "amax")
        to_rival = margins.gather(1, self.rival[rows][:, None])[:, 0]
        self.below.index_add_(0, rows, _log_factor(-self.stake_below[rows] * to_rival))
        self.above.index_add_(0, rows, _log_factor(self.stake_above[rows] * margins))
        adversarial = (logits.argmax(1) == reference) == self.targeted[rows]
        self.adversarial.index_add_(0, rows, adversarial.long())
        one = torch.ones_like(rows)
        self.count.index_add_(0, rows, one)
        self.wanted.index_add_(0, rows, -one)

    def bet(self, rows: Tensor) -> None:
        """Choose the stakes for the next evaluations of some images, from their evaluations so far."""
        count = self.count[rows][:, None].clamp_min(1)
        mean = self.margins[rows] / (count + 2)  # shrunk, since the stakes of few evaluations would be too large
        tiny = torch.finfo(mean.dtype).tiny
        largest = self.largest[rows].clamp_min(tiny)
        stake = mean.abs() / (self.squares[rows] / count).clamp_min(tiny)
        targeted = self.targeted[rows][:, None]
        below, above = (torch.where(targeted, *caps) for caps in (_CAPS, _CAPS[::-1]))
        rival = self.others(rows).argmin(1)
        self.rival[rows] = rival
        self.stake_above[rows] = torch.where(mean > 0, stake.minimum(above / largest), 0)
        stake_below = torch.where(mean < 0, stake.minimum(below / largest), 0)
        self.stake_below[rows] = stake_below.gather(1, rival[:, None])[:, 0]

    def others(self, rows: Tensor) -> Tensor:
        """Return the summed margins to each class, (rows, classes), infinite at the reference class."""
        return self.margins[rows].scatter(1, self.reference[rows][:, None], torch.inf)

    def mean_label(self, rows: Tensor) -> Tensor:
        """Return the class with the largest mean logit, (rows,), the first one on ties."""
        return self.margins[rows].neg().argmax(1)

    def mean_margin(self, rows: Tensor) -> Tensor:
        """Return the attacker's loss at the mean logits, (rows,): negative if they are adversarial."""
        least = self.others(rows).amin(1) / self.count[rows].clamp_min(1)
        return torch.where(self.targeted[rows], -least, least)

    def standard_error(self, rows: Tensor) -> Tensor:
        """Return the standard error of the smallest mean margin, (rows,)."""
        _, _, deviations = self._smallest(rows)
        return deviations.sqrt() / self.count[rows].clamp_min(1)

    def is_adversarial(self, rows: Tensor) -> Tensor:
        """Return whether the largest mean logit is adversarial, (rows,) bool."""
        return (self.mean_label(rows) == self.reference[rows]) == self.targeted[rows]

    def evidence(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log wealth of the tests of "adversarial" and of "robust", (rows,) each.

        Without a target, a point is adversarial if some mean margin is negative, and robust if all are positive. A
        test of "all" needs no correction for several classes, since each class has to pass.
        """
        above = self.above[rows].scatter(1, self.reference[rows][:, None], torch.inf).amin(1)
        targeted = self.targeted[rows]
        return torch.where(targeted, above, self.below[rows]), torch.where(targeted, self.below[rows], above)

    def tail_share(self, rows: Tensor) -> Tensor:
        """Return the share of the squared deviations that the most contrary evaluation carries, (rows,) in [0, 1].

        The margin is the smallest of the mean margins. Contrary evaluations lie on the other side of zero: large
        margins where the mean is negative, and negative ones where it is positive. If few such evaluations carry the
        variance, larger ones may not have occurred yet, and the mean is not known.
        """
        rival, mean, deviations = self._smallest(rows)
        low, high = (column[rows].gather(1, rival)[:, 0] for column in (self.lowest, self.highest))
        contrary = torch.where(mean < 0, high - mean, mean - low).clamp_min(0)
        return (contrary.square() / deviations).nan_to_num(0).clamp_max(1)

    def _smallest(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the class of the smallest mean margin, (rows, 1), that mean, and its sum of squared deviations."""
        rival = self.others(rows).argmin(1, keepdim=True)
        count = self.count[rows].clamp_min(1)
        total, squares = (column[rows].gather(1, rival)[:, 0] for column in (self.margins, self.squares))
        mean = total / count
        return rival, mean, (squares - count * mean.square()).clamp_min(1e-12 * squares)


def _log_factor(gain: Tensor) -> Tensor:
    return torch.log1p(gain.clamp_min(_LEAST_FACTOR - 1))


@dataclass(frozen=True)
class MeanMarginTest:
    """Sequential test whether a point is adversarial, robust or undecided.

    Attributes:
        most: Most evaluations of a point; 1 decides by a single one.
        least: Fewest evaluations for the verdict "adversarial", twice the fewest for "robust".
        level: Level of the verdict "adversarial"; "robust" has `ROBUST_LEVEL`.
    """

    most: int = 1500
    least: int = 40
    level: float = ADVERSARIAL_LEVEL

    @property
    def first(self) -> int:
        """Evaluations before the first look."""
        return min(self.most, 4)

    def decide(self, state: EvaluationState, rows: Tensor, level: float | Tensor | None = None) -> Tensor:
        """Return the verdicts on some images, (rows,) int64: 1 for adversarial, -1 for robust, 0 for undecided.

        Args:
            state: The evaluations.
            rows: (rows,) int64.
            level: Level of the verdict "adversarial", by default the test's own.
        """
        count, found = state.count[rows], state.is_adversarial(rows)
        if self.most == 1:
            return found.long() * 2 - 1
        adversarial, robust = state.evidence(rows)
        level = torch.as_tensor(self.level if level is None else level, dtype=torch.float64, device=count.device)
        known, least = state.tail_share(rows) <= HEAVY_TAIL, min(self.least, self.most)
        is_adversarial = known & found & (count >= least) & (adversarial >= -level.log())
        is_robust = known & ~found & (count >= least // 2) & (robust >= -math.log(ROBUST_LEVEL))
        return is_adversarial.long() - is_robust.long()

    def request(self, state: EvaluationState, rows: Tensor, limit: int | None = None) -> Tensor:
        """Choose the stakes of some images and return how many more evaluations to make, (rows,).

        It is 0 at the limit, and where even the best bets would need more evaluations than the limit if the mean margin
        were one standard error farther from zero: 2 log(1 / level) times its variance over its square. Where the mean
        is not adversarial, the level is 0.025 whatever the test's own is.
        """
        state.bet(rows)
        count, most = state.count[rows], self.most if limit is None else min(limit, self.most)
        wanted = (count * 5 + 3) // 4
        for least in (self.least, self.least // 2):  # looks, where a verdict may end the test
            wanted = torch.where((count < least) & (wanted > least), least, wanted)
        error = state.standard_error(rows)
        share = error / (state.mean_margin(rows).abs() + error)
        evidence = torch.full_like(share, -math.log(ADVERSARIAL_LEVEL))
        evidence[state.is_adversarial(rows)] = -math.log(self.level)
        needed = 2 * evidence * count * share.square()
        hopeless = (count > self.least) & ~(needed <= most)  # also where all evaluations are equal and tied
        return (wanted.clamp_max(most) - count) * ~hopeless


def majority_verdict(adversarial: int, count: int) -> Verdict:
    """Return whether more than half of the answers at a point are adversarial, by a test that is valid at any time.

    The wealth of the test is the likelihood ratio of a uniform mixture of the shares on one side of a half, and of a
    half (Robbins, Statistical methods related to the law of the iterated logarithm, 1970). For one point, its levels
    are those of the mean margin.

    Example:
        >>> majority_verdict(30, 40), majority_verdict(10, 40), majority_verdict(22, 40)
        ('adversarial', 'robust', 'undecided')
    """
    if count == 1:
        return "adversarial" if adversarial else "robust"
    more, fewer = adversarial + 1, count - adversarial + 1
    sides: tuple[tuple[Verdict, int, int, float], ...] = (
        ("adversarial", more, fewer, ADVERSARIAL_LEVEL),
        ("robust", fewer, more, ROBUST_LEVEL),
    )
    for verdict, of, rest, level in sides:
        with np.errstate(divide="ignore"):
            wealth = betaln(of, rest) + np.log(betainc(rest, of, 0.5)) + (count + 1) * math.log(2)
        if wealth >= -math.log(level):
            return verdict
    return "undecided"

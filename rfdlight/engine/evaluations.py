"""Statistics of fresh evaluations: mean margins, t tests and the final verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

Verdict = Literal["robust", "adversarial", "undecided"]

LEVEL = 0.05
"""Significance level of the final verdict and of all tests of an image together."""


@dataclass
class EvaluationState:
    """Sums over the fresh evaluations at each image's current point.

    By Definition 1 of Nguyen et al., Understanding the Robustness of Randomized Feature Defense Against Query-Based
    Adversarial Attacks, ICLR 2024, a point in the ball is adversarial if the largest of the victim's mean logits is
    not the label's; in a targeted attack, if it is the target's.
    """

    reference: Tensor  # (rows,) int64, the target of an image under targeted attack, else its label
    targeted: Tensor  # (rows,) bool, whether the reference class is the target
    wanted: Tensor  # (rows,) int64, evaluations still to be made
    count: Tensor  # (rows,) int64, evaluations made
    adversarial: Tensor  # (rows,) int64, evaluations with an adversarial label
    margins: Tensor  # (rows, classes) float64, summed differences of the reference class's logit and each logit
    squares: Tensor  # (rows, classes) float64, summed squares of these differences

    @classmethod
    def open(cls, y: Tensor, classes: int, wanted: int) -> Self:
        """Return the state of new images with the labels `y`, which want some evaluations of the clean image."""
        sums = [torch.zeros(len(y), classes, dtype=torch.float64, device=y.device) for _ in range(2)]
        counts = [torch.full_like(y, value) for value in (wanted, 0, 0)]
        return cls(y.clone(), torch.zeros_like(y, dtype=torch.bool), *counts, *sums)

    def restart(self, rows: Tensor, wanted: int) -> None:
        """Reset the sums of some images and request so many fresh evaluations."""
        self.wanted[rows] = wanted
        for column in (self.count, self.adversarial, self.margins, self.squares):
            column[rows] = 0

    def add(self, rows: Tensor, logits: Tensor) -> None:
        """Add evaluations with logits (evaluations, classes) to the sums of their rows; a row may occur repeatedly."""
        reference = self.reference[rows]
        exact = logits.double()
        margins = exact.gather(1, reference[:, None]) - exact
        self.margins.index_add_(0, rows, margins)
        self.squares.index_add_(0, rows, margins.square())
        adversarial = (logits.argmax(1) == reference) == self.targeted[rows]
        self.adversarial.index_add_(0, rows, adversarial.long())
        one = torch.ones_like(rows)
        self.count.index_add_(0, rows, one)
        self.wanted.index_add_(0, rows, -one)

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

    def is_adversarial(self, rows: Tensor) -> Tensor:
        """Return whether the largest mean logit is adversarial, (rows,) bool."""
        return (self.mean_label(rows) == self.reference[rows]) == self.targeted[rows]

    def p_values(self, rows: Tensor) -> np.ndarray:
        """Return the p values of one-sided t tests that mean margins are not below zero, (rows, classes)."""
        count = self.count[rows][:, None].cpu().numpy()
        return below_zero(count, self.margins[rows].cpu().numpy(), self.squares[rows].cpu().numpy())

    def verdict(self, row: int) -> Verdict:
        """Return the verdict on an image from the evaluations of its final point.

        "adversarial" if the label's mean margin to some class is significantly negative (Bonferroni over the
        classes), "robust" if it is significantly positive to all, both at the level 0.05. In a targeted attack, the
        target's mean margin has the opposite meaning.
        """
        rows = torch.tensor([row], device=self.count.device)
        if int(self.count[row]) == 1:
            return "adversarial" if bool(self.is_adversarial(rows)) else "robust"
        below = np.delete(self.p_values(rows)[0], int(self.reference[row]))
        some_below = below.min() * len(below) <= LEVEL
        all_above = below.min() >= 1 - LEVEL
        if self.targeted[row]:
            some_below, all_above = all_above, some_below
        return "adversarial" if some_below else "robust" if all_above else "undecided"


def below_zero(count: np.ndarray, total: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the p values of one-sided t tests that means are not below zero, from counts, sums and sums of squares."""
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0) * count / (count - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = mean / np.sqrt(variance / count)
    statistic = np.where(mean == 0, 0.0, statistic)
    p: np.ndarray = student.cdf(statistic, count - 1)
    return p

"""When an image counts as broken.

The truth to be judged is Definition 1 of Nguyen et al., Understanding the Robustness of Randomized
Feature Defense Against Query-Based Adversarial Attacks, ICLR 2024: a point in the ball is adversarial
when the largest of the victim's mean logits is not its label's.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Literal

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from rfdlight.tensors import Columns

Rule = Literal["sequential", "paper", "single", "never"]
Verdict = Literal["robust", "broken", "undecided"]


class Phase(IntEnum):
    """What a row of the pool waits for."""

    CLEAN = 0
    """Draws at the clean image."""
    ATTACK = 1
    """Its next query."""
    VOTE = 2
    """Draws of the first stage at a candidate."""
    TEST = 3
    """A block of draws of the second stage."""
    FINAL = 4
    """Draws at its final point."""


class Judge:
    """Decides from draws of its own, which the attacker never sees and never pays for.

    An answer inside the ball with a wrong label makes its point a *candidate*. Under the rule
    "sequential" a candidate is voted on by up to 9 fresh draws, until 5 agree. If those are wrong, the
    margin of the mean logits is tested on blocks of 20 fresh draws, up to 200: the test is given up
    once that margin is positive after a block, and the image is *broken* once the mean margin to the
    rival class is negative in a one-sided t test. The rival is the class with the largest mean logit in
    the votes, so the draws that choose it are not those that test it. An image's k-th test has the level
    0.05 * 6 / (pi^2 k^2), split evenly over its 10 looks, so that all tests of an image together break it
    wrongly with probability at most 0.05 where margins are about normal. After its f-th failure, an
    image's next f candidates pass unjudged.

    The other rules: "paper" lets the attack claim, and confirms the claims of attacks that read scores by
    the 9 votes alone (its labels-only attacks are believed); "single" breaks an image at its first
    candidate; "never" breaks none.

    On a deterministic victim one evaluation decides under every rule but "never".

    Args:
        rule: See above.
        final_draws: Fresh draws at every image's final point.
        clean_draws: Fresh draws at every clean image.
    """

    votes = 9
    block = 20
    most = 200
    level = 0.05

    def __init__(self, rule: Rule = "sequential", final_draws: int = 100, clean_draws: int = 20) -> None:
        self.rule = rule
        self.final_draws = final_draws
        self.clean_draws = clean_draws

    @property
    def majority(self) -> int:
        """How many of the votes have to agree."""
        return self.votes // 2 + 1

    def open(self, x: Tensor, classes: int, deterministic: bool) -> Columns:
        """Return the columns of new rows, which wait for their clean draws."""
        rows = len(x)

        def whole(value: int) -> Tensor:
            return torch.full((rows,), value, dtype=torch.int64, device=x.device)

        def real(*shape: int) -> Tensor:
            return torch.zeros(rows, *shape, dtype=torch.float64, device=x.device)

        return {
            "phase": whole(Phase.CLEAN),
            "wanted": whole(1 if deterministic else self.clean_draws),
            "point": x.clone(),
            "point_clock": whole(0),
            "draws": whole(0),
            "wrong": whole(0),
            "margins": real(classes),
            "squares": real(classes),
            "rival": whole(0),
            "clean_draws": whole(0),
            "clean_wrong": whole(0),
            "clean_margin": real(),
            "candidates": whole(0),
            "votings": whole(0),
            "tests": whole(0),
            "failures": whole(0),
            "skip": whole(0),
            "broken_at": whole(-1),
            "first_screen9": whole(-1),
        }

    def want(self, columns: Columns, rows: Tensor, phase: Phase, draws: int) -> None:
        """Send rows to a phase in which they need so many fresh draws."""
        columns["phase"][rows] = phase
        columns["wanted"][rows] = draws
        for name in ("draws", "wrong", "margins", "squares"):
            columns[name][rows] = 0

    def record(self, columns: Columns, rows: Tensor, logits: Tensor) -> None:
        """Add draws to the sums of their rows.

        Args:
            columns: Of the pool.
            rows: (draws,) the row of each draw; a row may come several times.
            logits: (draws, classes).
        """
        label = columns["y"][rows][:, None]
        exact = logits.double()
        margins = exact.gather(1, label) - exact  # (draws, classes), zero at the label
        columns["margins"].index_add_(0, rows, margins)
        columns["squares"].index_add_(0, rows, margins.square())
        columns["wrong"].index_add_(0, rows, (logits.argmax(1) != label[:, 0]).long())
        one = torch.ones_like(rows)
        columns["draws"].index_add_(0, rows, one)
        columns["wanted"].index_add_(0, rows, -one)

    def mean_label(self, columns: Columns, rows: Tensor) -> Tensor:
        """Return the class with the largest mean logit, the first one on ties."""
        return columns["margins"][rows].neg().argmax(1)

    def mean_margin(self, columns: Columns, rows: Tensor) -> Tensor:
        """Return the margin of the mean logits."""
        return _others(columns, rows).amin(1) / columns["draws"][rows].clamp_min(1)

    def next_votes(self, columns: Columns, rows: Tensor) -> Tensor:
        """Return how many more votes each row needs at least until 5 agree."""
        wrong = columns["wrong"][rows]
        return self.majority - torch.maximum(wrong, columns["draws"][rows] - wrong)

    def start_test(self, columns: Columns, rows: Tensor) -> None:
        """Send rows with a wrong majority to the second stage."""
        columns["rival"][rows] = _others(columns, rows).argmin(1)
        columns["tests"][rows] += 1
        self.want(columns, rows, Phase.TEST, self.block)

    def look(self, columns: Columns, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Look at the tests of rows whose block is complete.

        Returns:
            Which rows are broken and which have failed, (rows,) bool; the others need another block.
        """
        rival = columns["rival"][rows][:, None]
        count = columns["draws"][rows].cpu().numpy()
        total = columns["margins"][rows].gather(1, rival)[:, 0].cpu().numpy()
        squares = columns["squares"][rows].gather(1, rival)[:, 0].cpu().numpy()
        tests = columns["tests"][rows].cpu().numpy()
        level = self.level * 6 / (math.pi**2 * tests**2) / (self.most // self.block)
        significant = torch.from_numpy(_below_zero(count, total, squares) <= level).to(rows.device)
        right = self.mean_label(columns, rows) == columns["y"][rows]
        broken = significant & ~right
        failed = ~broken & (right | (columns["draws"][rows] >= self.most))
        return broken, failed

    def fail(self, columns: Columns, rows: Tensor) -> None:
        """Send rows back to the attack; as many of their candidates as they have failures pass unjudged."""
        columns["failures"][rows] += 1
        columns["skip"][rows] = columns["failures"][rows]
        columns["phase"][rows] = Phase.ATTACK

    def verdict(self, columns: Columns, row: int) -> Verdict:
        """Return what the draws of a row's final phase say.

        "broken" if the mean margin to some class is significantly negative (Bonferroni over the
        classes), "robust" if it is significantly positive to all, both at the level 0.05.
        """
        label = int(columns["y"][row])
        count = int(columns["draws"][row])
        total = np.delete(columns["margins"][row].cpu().numpy(), label)
        if count == 1:
            return "robust" if int(columns["margins"][row].neg().argmax()) == label else "broken"
        squares = np.delete(columns["squares"][row].cpu().numpy(), label)
        below = _below_zero(np.full(len(total), count), total, squares)
        if below.min() * len(below) <= self.level:
            return "broken"
        return "robust" if below.min() >= 1 - self.level else "undecided"


def _others(columns: Columns, rows: Tensor) -> Tensor:
    """Return the summed margins to each class, (rows, classes), infinite at the label."""
    return columns["margins"][rows].scatter(1, columns["y"][rows][:, None], torch.inf)


def _below_zero(count: np.ndarray, total: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the p value of the one-sided t test that a mean is not below zero, from sums."""
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0) * count / (count - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = mean / np.sqrt(variance / count)
    statistic = np.where(mean == 0, 0.0, statistic)
    return student.cdf(statistic, count - 1)

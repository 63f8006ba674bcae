"""When an image counts as adversarial.

The truth to be judged is Definition 1 of Nguyen et al., Understanding the Robustness of Randomized
Feature Defense Against Query-Based Adversarial Attacks, ICLR 2024: a point in the ball is adversarial
when the largest of the victim's mean logits is not its label's; in a targeted attack, when it is the
target's.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Literal

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from rfdlight.core.tensors import Columns

CLEAN_EVALUATIONS = 20
"""Fresh evaluations of a random victim at every clean image."""

Rule = Literal["sequential", "paper", "single", "never"]
Verdict = Literal["robust", "adversarial", "undecided"]


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


class SuccessCriterion:
    """Decides from draws of its own, which the attacker never sees and never pays for.

    An answer inside the ball that is a hit (a wrong label, or the target) makes its point a *candidate*. Under the rule
    "sequential" a candidate is voted on by up to 9 fresh draws, until 5 agree. If those are hits, the
    margin of the mean logits is tested on blocks of 20 fresh draws, up to 200: the test is given up
    once that margin is positive after a block, and the image is *broken* once the mean margin to the
    rival class is negative in a one-sided t test. The rival is the class with the largest mean logit in
    the votes, so the draws that choose it are not those that test it; in a targeted attack, the target's mean
    margin to every other class has to be positive in such a test. An image's k-th test has the level
    0.05 * 6 / (pi^2 k^2), split evenly over its 10 looks, so that all tests of an image together break it
    wrongly with probability at most 0.05 where margins are about normal. After its f-th failure, an
    image's next f candidates pass unjudged.

    The other rules: "paper" lets the attack claim, and confirms the claims of attacks that read scores by
    the 9 votes alone (its labels-only attacks are believed); "single" breaks an image at its first
    candidate; "never" breaks none.

    On a deterministic victim one evaluation decides under every rule but "never".

    Args:
        rule: See above.
        final_evaluations: Fresh draws at every image's final point.
        clean_evaluations: Fresh draws at every clean image.
    """

    votes = 9
    block = 20
    most = 200
    level = 0.05

    def __init__(
        self, rule: Rule = "sequential", final_evaluations: int = 100, clean_evaluations: int = CLEAN_EVALUATIONS
    ) -> None:
        self.rule = rule
        self.final_evaluations = final_evaluations
        self.clean_evaluations = clean_evaluations

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
            "wanted": whole(1 if deterministic else self.clean_evaluations),
            "point": x.clone(),
            "point_clock": whole(0),
            "point_billed": whole(0),
            "query_clock": whole(0),
            "draws": whole(0),
            "wrong": whole(0),
            "margins": real(classes),
            "squares": real(classes),
            "rival": whole(0),
            "goal": whole(-1),
            "clean_evaluations": whole(0),
            "clean_wrong": whole(0),
            "clean_margin": real(),
            "clean_prediction": whole(-1),
            "candidates": whole(0),
            "voted_candidates": whole(0),
            "tested_candidates": whole(0),
            "failures": whole(0),
            "skip": whole(0),
            "reference": torch.zeros(rows, classes, device=x.device),
            "known": torch.zeros(rows, dtype=torch.bool, device=x.device),
            "success_query": whole(-1),
            "first_9_vote_success": whole(-1),
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
        goal = columns["goal"][rows]
        exact = logits.double()
        margins = exact.gather(1, _reference(columns, rows)) - exact  # (draws, classes), zero at the reference
        columns["margins"].index_add_(0, rows, margins)
        columns["squares"].index_add_(0, rows, margins.square())
        label = logits.argmax(1)
        hit = torch.where(goal >= 0, label == goal, label != columns["y"][rows])
        columns["wrong"].index_add_(0, rows, hit.long())
        one = torch.ones_like(rows)
        columns["draws"].index_add_(0, rows, one)
        columns["wanted"].index_add_(0, rows, -one)

    def mean_label(self, columns: Columns, rows: Tensor) -> Tensor:
        """Return the class with the largest mean logit, the first one on ties."""
        return columns["margins"][rows].neg().argmax(1)

    def mean_margin(self, columns: Columns, rows: Tensor) -> Tensor:
        """Return the attacker's loss at the mean logits: negative if they are what it wants."""
        least = _others(columns, rows).amin(1) / columns["draws"][rows].clamp_min(1)
        return torch.where(columns["goal"][rows] >= 0, -least, least)

    def is_adversarial(self, columns: Columns, rows: Tensor) -> Tensor:
        """Say where the largest mean logit is what the attacker wants, (rows,) bool."""
        label, goal = self.mean_label(columns, rows), columns["goal"][rows]
        return torch.where(goal >= 0, label == goal, label != columns["y"][rows])

    def next_votes(self, columns: Columns, rows: Tensor) -> Tensor:
        """Return how many more votes each row needs at least until 5 agree."""
        wrong = columns["wrong"][rows]
        return self.majority - torch.maximum(wrong, columns["draws"][rows] - wrong)

    def start_test(self, columns: Columns, rows: Tensor) -> None:
        """Send rows with a majority of hits to the second stage."""
        columns["rival"][rows] = _others(columns, rows).argmin(1)
        columns["tested_candidates"][rows] += 1
        self.want(columns, rows, Phase.TEST, self.block)

    def look(self, columns: Columns, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Look at the tests of rows whose block is complete.

        Returns:
            Which rows are broken and which have failed, (rows,) bool; the others need another block.
        """
        chance = self._chances(columns, rows)
        rival = columns["rival"][rows].cpu().numpy()
        goal = columns["goal"][rows].cpu().numpy()
        against_rival = chance[np.arange(len(chance)), rival]
        # The target has to be above every other class, and each of these tests has the whole level.
        against_all = (1 - chance).max(1, where=np.arange(chance.shape[1]) != goal[:, None], initial=0)
        tested_candidates = columns["tested_candidates"][rows].cpu().numpy()
        level = self.level * 6 / (math.pi**2 * tested_candidates**2) / (self.most // self.block)
        significant = torch.from_numpy(np.where(goal >= 0, against_all, against_rival) <= level).to(rows.device)
        hit = self.is_adversarial(columns, rows)
        adversarial = significant & hit
        failed = ~adversarial & (~hit | (columns["draws"][rows] >= self.most))
        return adversarial, failed

    @staticmethod
    def _chances(columns: Columns, rows: Tensor) -> np.ndarray:
        """Return the p values that the mean margins of the reference class are not below zero, (rows, classes)."""
        count = columns["draws"][rows][:, None].cpu().numpy()
        return _below_zero(count, columns["margins"][rows].cpu().numpy(), columns["squares"][rows].cpu().numpy())

    def fail(self, columns: Columns, rows: Tensor) -> None:
        """Send rows back to the attack; as many of their candidates as they have failures pass unjudged."""
        columns["failures"][rows] += 1
        columns["skip"][rows] = columns["failures"][rows]
        columns["phase"][rows] = Phase.ATTACK

    def verdict(self, columns: Columns, row: int) -> Verdict:
        """Return what the draws of a row's final phase say.

        "adversarial" if the label's mean margin to some class is significantly negative (Bonferroni over the
        classes), "robust" if it is significantly positive to all, both at the level 0.05. With a target it is
        the other way round: "adversarial" if the target's mean margin is significantly positive to all classes,
        "robust" if it is significantly negative to some.
        """
        one = torch.tensor([row], device=columns["y"].device)
        if int(columns["draws"][row]) == 1:
            return "adversarial" if bool(self.is_adversarial(columns, one)) else "robust"
        below = np.delete(self._chances(columns, one)[0], int(_reference(columns, one)))
        some_below = below.min() * len(below) <= self.level
        all_above = below.min() >= 1 - self.level
        if int(columns["goal"][row]) >= 0:
            some_below, all_above = all_above, some_below
        return "adversarial" if some_below else "robust" if all_above else "undecided"


def _reference(columns: Columns, rows: Tensor) -> Tensor:
    """Return the class that margins are relative to, (rows, 1): the goal if there is one, else the label."""
    goal = columns["goal"][rows]
    return torch.where(goal >= 0, goal, columns["y"][rows])[:, None]


def _others(columns: Columns, rows: Tensor) -> Tensor:
    """Return the summed margins to each class, (rows, classes), infinite at the reference."""
    return columns["margins"][rows].scatter(1, _reference(columns, rows), torch.inf)


def _below_zero(count: np.ndarray, total: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the p value of the one-sided t test that a mean is not below zero, from sums."""
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0) * count / (count - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = mean / np.sqrt(variance / count)
    statistic = np.where(mean == 0, 0.0, statistic)
    return student.cdf(statistic, count - 1)

"""Choice among calibrated and attacked noises, with paired tests, and the agreement of the prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kendalltau, permutation_test

from rfdlight.analysis.calibration import Calibration
from rfdlight.analysis.candidates import Candidate
from rfdlight.core.statistics import mcnemar
from rfdlight.defenses.noise import Noise
from rfdlight.evaluation.run import Run
from rfdlight.reporting.tables import interval, percent

NO_NOISE = "no noise"
LEVEL = 0.05
"""Significance level of all tests."""


@dataclass(frozen=True)
class Confirmed:
    """A candidate after calibration and a short attack.

    Attributes:
        candidate: Candidate with the calibrated sigmas and their prediction.
        noise: The candidate as a defense.
        calibration: Measured cost of the noise.
        outcome: Run of the short attack on the noise.
    """

    candidate: Candidate
    noise: Noise
    calibration: Calibration
    outcome: Run

    @property
    def accuracy(self) -> float:
        """Robust accuracy under the short attack."""
        return self.outcome.robust_accuracy.value


def best_of(confirmed: list[Confirmed]) -> Confirmed:
    """Return the candidate of the highest robust accuracy; among equal ones, of the highest prediction."""
    return max(confirmed, key=lambda one: (one.accuracy, one.candidate.predicted))


def rank_agreement(confirmed: list[Confirmed]) -> tuple[float, float] | None:
    """Return Kendall's tau-b between prediction and robust accuracy, and its exact p value; None without an order."""
    if len(confirmed) < 2:
        return None
    predicted = [one.candidate.predicted for one in confirmed]
    accuracies = [one.accuracy for one in confirmed]

    def tau(permuted: np.ndarray) -> float:
        return float(kendalltau(predicted, permuted).statistic)

    if math.isnan(tau(np.array(accuracies))):
        return None
    # The p value of kendalltau is a normal approximation if there are ties. All orders of up to seven are permuted.
    found = permutation_test((accuracies,), tau, permutation_type="pairings", rng=0)
    return float(found.statistic), float(found.pvalue)


def agreement_line(confirmed: list[Confirmed]) -> str:
    """Return one line on the agreement of predicted and confirmed order."""
    found = rank_agreement(confirmed)
    if found is None:
        return "predicted and confirmed order: not comparable, too few candidates or all equal"
    tau, p = found
    line = f"predicted and confirmed order: Kendall's tau {tau:.2f}, n = {len(confirmed)}, p = {p:.2g}"
    return line if p < LEVEL else f"{line}: not significant"


def discordant(one: Run, other: Run) -> tuple[int, int]:
    """Return the numbers of common images that are robust in the first outcome only, and in the second only."""
    first, second = ({record.id: record.is_robust for record in run.records} for run in (one, other))
    pairs = [(first[name], second[name]) for name in first.keys() & second.keys()]
    return pairs.count((True, False)), pairs.count((False, True))


def differ(one: Run, other: Run, pairs: int) -> bool:
    """Return whether the robust accuracies on the same images differ significantly by McNemar's exact test.

    Overlapping intervals would not show that, since the same images are hard in both. The level is divided by the
    number of possible pairs of outcomes (Bonferroni), since the best is known only afterwards.
    """
    return mcnemar(*discordant(one, other)) <= LEVEL / pairs


def choice_lines(confirmed: list[Confirmed], undefended: Run) -> list[str]:
    """Return lines on the best candidate, its ties, and the candidates from which it differs significantly."""
    best = best_of(confirmed)
    share = best.outcome.robust_accuracy
    lines = [f"best: {best.candidate}, robust accuracy {percent(share)} ({interval(share)})"]
    others = [(str(one.candidate), one.outcome) for one in confirmed if one is not best] + [(NO_NOISE, undefended)]
    tied = [name for name, outcome in others[:-1] if outcome.robust_accuracy.value == share.value]
    if tied:
        lines.append(f"tied with {', '.join(tied)}, of a lower prediction")
    pairs = math.comb(len(others) + 1, 2)
    for verdict, wanted in (("significantly different from", True), ("NOT significantly different from", False)):
        listed = [
            "{} ({} to {})".format(name, *discordant(best.outcome, outcome))
            for name, outcome in others
            if differ(best.outcome, outcome, pairs) == wanted
        ]
        if listed:
            lines.append(f"{verdict} {', '.join(listed)} on {share.total} images")
    lines.append(
        "(in brackets: images robust under the best only, and under the other only; McNemar's exact test, "
        f"level {LEVEL:g} over all pairs)"
    )
    if best.accuracy <= undefended.robust_accuracy.value:
        lines.append("no candidate is more robust than the victim without noise")
    return lines


def choice_facts(confirmed: list[Confirmed], undefended: Run) -> dict[str, Any]:
    """Return the facts behind the choice, for the file of the best candidate."""
    agreement = rank_agreement(confirmed)
    return {
        NO_NOISE.replace(" ", "_"): _attack_facts(undefended),
        "confirmed": [
            {
                "places": str(one.candidate),
                "layers": list(one.candidate.layers),
                "sigma": one.noise.sigma,
                "drop": one.calibration.cost.drop,
                "predicted_misled": one.candidate.predicted,
                **_attack_facts(one.outcome),
            }
            for one in confirmed
        ],
        "kendall_tau": agreement and agreement[0],
    }


def _attack_facts(outcome: Run) -> dict[str, Any]:
    robust, summary = outcome.robust_accuracy, outcome.summary
    return {
        "robust": robust.value,
        "robust_interval": [robust.low, robust.high],
        "single_query_robust": float(summary.single_query.robust or math.nan),
        "criterion_rows": summary.ledger["criterion"],
    }

"""Choice among calibrated and attacked noises, with paired tests, and the agreement of the prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scipy.stats import kendalltau

from rfdlight.analysis.calibration import Calibration
from rfdlight.analysis.candidates import Candidate
from rfdlight.defenses.noise import Noise
from rfdlight.evaluation.compare import compare
from rfdlight.records.runs import Run
from rfdlight.reporting.tables import interval, percent

NO_NOISE = "no noise"
LEVEL = 0.05
"""Significance level of all tests."""


@dataclass(frozen=True)
class Confirmed:
    """A candidate with calibrated sigmas, as a defense, with its measured cost and the run of a short attack on it."""

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


def rank_agreement(confirmed: list[Confirmed]) -> float:
    """Return Kendall's tau-b between prediction and robust accuracy, NaN without an order."""
    if len(confirmed) < 2:
        return math.nan
    predicted = [one.candidate.predicted for one in confirmed]
    return float(kendalltau(predicted, [one.accuracy for one in confirmed]).statistic)


def choice_lines(confirmed: list[Confirmed], undefended: Run) -> list[str]:
    """Return lines on the best candidate, the outcomes from which it differs significantly, and the prediction.

    McNemar's exact test compares the same images. Its level is divided by the number of possible pairs of outcomes
    (Bonferroni), since the best is known only afterwards.
    """
    best = best_of(confirmed)
    share = best.outcome.robust_accuracy
    others = [(str(one.candidate), one.outcome) for one in confirmed if one is not best] + [(NO_NOISE, undefended)]
    level = LEVEL / math.comb(len(others) + 1, 2)
    differing: list[str] = []
    alike: list[str] = []
    for name, outcome in others:
        pair = compare(best.outcome, outcome)
        listed = differing if pair.p <= level else alike
        listed.append(f"{name} ({pair.only_first} to {pair.only_second})")
    lines = [f"best: {best.candidate}, robust accuracy {percent(share)} ({interval(share)})"]
    if differing:
        lines.append(f"significantly different from {', '.join(differing)} on {share.total} images")
    if alike:
        lines.append(f"NOT significantly different from {', '.join(alike)} on {share.total} images")
    lines.append(
        "(in brackets: images robust under the best only, and under the other only; McNemar's exact test, "
        f"level {LEVEL:g} over all pairs)"
    )
    tau = rank_agreement(confirmed)
    lines.append(f"Kendall's tau of predicted and confirmed order: {tau:.2f}, n = {len(confirmed)}")
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
        "kendall_tau": None if math.isnan(agreement) else agreement,
    }


def _attack_facts(outcome: Run) -> dict[str, Any]:
    robust, summary = outcome.robust_accuracy, outcome.summary
    single = summary.single_query.robust  # None of several attacks
    return {
        "robust": robust.value,
        "robust_interval": [robust.low, robust.high],
        "single_query_robust": None if single is None else single.value,
        "criterion_rows": summary.ledger["criterion"],
    }

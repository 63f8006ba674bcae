"""Which of some calibrated and attacked defenses to take, and how far the prediction agreed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kendalltau, permutation_test

from rfdlight.analysis.calibration import Calibration
from rfdlight.analysis.candidates import Candidate
from rfdlight.core.mcnemar import mcnemar
from rfdlight.defenses.noise import Noise
from rfdlight.evaluation.short_attack import Outcome
from rfdlight.reporting.tables import interval, percent

NO_NOISE = "no noise"
LEVEL = 0.05


@dataclass(frozen=True)
class Confirmed:
    """A candidate with what was measured of it.

    Attributes:
        candidate: With the calibrated sigmas, and the prediction at these.
        noise: It, as a defense.
        calibration: What it costs.
        outcome: Of the short attack on it.
    """

    candidate: Candidate
    noise: Noise
    calibration: Calibration
    outcome: Outcome

    @property
    def accuracy(self) -> float:
        """Confirmed robust accuracy, of the mean logits."""
        return float(self.outcome.robust.value)


def best_of(confirmed: list[Confirmed]) -> Confirmed:
    """Return the one with the highest confirmed robust accuracy, of equal ones that with the highest prediction."""
    return max(confirmed, key=lambda one: (one.accuracy, one.candidate.predicted))


def rank_agreement(confirmed: list[Confirmed]) -> tuple[float, float] | None:
    """Return Kendall's tau-b between predicted misleading and confirmed robust accuracy, and its exact p value.

    None where one of the two has no order.
    """
    if len(confirmed) < 2:
        return None
    predicted = [one.candidate.predicted for one in confirmed]
    accuracies = [one.accuracy for one in confirmed]

    def tau(permuted: np.ndarray) -> float:
        return float(kendalltau(predicted, permuted).statistic)

    if math.isnan(tau(np.array(accuracies))):
        return None
    # kendalltau's own p is a normal approximation where there are ties. All orders of up to seven are tried.
    found = permutation_test((accuracies,), tau, permutation_type="pairings", rng=0)
    return float(found.statistic), float(found.pvalue)


def told_agreement(confirmed: list[Confirmed]) -> str:
    """Say whether the predicted order is the confirmed one, and what so few candidates can show."""
    found = rank_agreement(confirmed)
    if found is None:
        return "predicted and confirmed order: there is none to compare, too few candidates or all alike"
    tau, p = found
    told = f"predicted and confirmed order: Kendall's tau {tau:.2f}, n = {len(confirmed)}, p = {p:.2g}"
    return told if p < LEVEL else f"{told}: not beyond chance"


def discordant(one: Outcome, other: Outcome) -> tuple[int, int]:
    """Return how many of the images both attacked withstood under the first alone, and under the second alone."""
    first, second = one.withstood, other.withstood
    pairs = [(first[name], second[name]) for name in first.keys() & second.keys()]
    return pairs.count((True, False)), pairs.count((False, True))


def told_apart(one: Outcome, other: Outcome, pairs: int) -> bool:
    """Return whether McNemar's exact test tells the robust accuracies on the same images apart.

    Two intervals that overlap do not say that: the images that are hard are so under both. The level is divided by
    the number of pairs that could have been compared, since the best is known only afterwards.

    Args:
        one: An outcome.
        other: Another, on the same images.
        pairs: Of outcomes, at least 1.
    """
    return mcnemar(*discordant(one, other)) <= LEVEL / pairs


def told_choice(confirmed: list[Confirmed], undefended: Outcome) -> list[str]:
    """Say which is best, with what it is tied, and from what the images do or do not tell it apart.

    Args:
        confirmed: At least one.
        undefended: Of the victim without a defense, on the same images.
    """
    best = best_of(confirmed)
    share = best.outcome.robust
    lines = [f"best: {best.candidate}, robust accuracy {percent(share)} ({interval(share)})"]
    others = [(str(one.candidate), one.outcome) for one in confirmed if one is not best] + [(NO_NOISE, undefended)]
    tied = [name for name, outcome in others if outcome.robust.value == share.value and name != NO_NOISE]
    if tied:
        lines.append(f"tied with {', '.join(tied)}, which the prediction puts lower")
    pairs = math.comb(len(others) + 1, 2)
    for verdict, wanted in (("told apart from", True), ("NOT told apart from", False)):
        shown = [
            "{} ({} to {})".format(name, *discordant(best.outcome, outcome))
            for name, outcome in others
            if told_apart(best.outcome, outcome, pairs) == wanted
        ]
        if shown:
            lines.append(f"{verdict} {', '.join(shown)} by {share.total} images")
    lines.append(
        "(in brackets: images that withstand with the best alone, and with the other alone; exact McNemar tests, "
        f"level {LEVEL:g} over all pairs)"
    )
    if best.accuracy <= undefended.robust.value:
        lines.append("no candidate withstood more than the victim without noise")
    return lines


def choice_facts(confirmed: list[Confirmed], undefended: Outcome) -> dict[str, Any]:
    """Return what the choice was made by, for the file of the best."""
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


def _attack_facts(outcome: Outcome) -> dict[str, Any]:
    robust, summary = outcome.robust, outcome.summary
    return {
        "robust": robust.value,
        "robust_interval": [robust.low, robust.high],
        "single_query_robust": outcome.single_query,
        "criterion_rows": summary.ledger["criterion"],
    }

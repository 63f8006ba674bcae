"""Summary of an evaluation: accuracies, attack success rate and query counts, computed from its records alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from msgspec.structs import asdict

from rfdlight.core.statistics import wilson
from rfdlight.records.facts import Rows, RunFacts
from rfdlight.records.records import HEAVY_TAIL, Record
from rfdlight.records.schema import Fields, descriptions


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A share with its 95 % Wilson interval.

    Attributes:
        value: The share, NaN of no images.
        low: Lower end of the interval.
        high: Upper end of the interval.
        total: Number of images.

    Example:
        >>> robust = Estimate.of(9, 10)
        >>> float(robust), round(robust.low, 2), round(robust.high, 2)
        (0.9, 0.6, 0.98)
    """

    value: float
    low: float
    high: float
    total: int

    @classmethod
    def of(cls, successes: float, total: int, **more: int) -> Self:
        """Estimate a share from its counts; `successes` may be a sum of shares, `more` are fields of a subclass."""
        low, high = wilson(successes, total)
        return cls(value=successes / total if total else math.nan, low=low, high=high, total=total, **more)

    def __float__(self) -> float:
        """Return the share."""
        return self.value


class SingleQuery(Fields, frozen=True, kw_only=True):
    """Expected accuracy of one answer."""

    clean: Estimate
    robust: Estimate | None


class MeanLogits(Fields, frozen=True, kw_only=True):
    """Accuracy of the mean logits."""

    clean: Estimate
    clean_lower: Estimate
    clean_upper: Estimate
    robust: Estimate
    robust_lower: Estimate
    robust_upper: Estimate


class MajorityVote(Fields, frozen=True, kw_only=True):
    """Accuracy of the most frequent single answer."""

    clean: Estimate
    robust: Estimate
    robust_lower: Estimate
    robust_upper: Estimate


@dataclass(frozen=True, kw_only=True)
class CurvePoint(Estimate):
    """Robust accuracy after a number of queries."""

    queries: int


class Summary(Fields, frozen=True, kw_only=True):
    """Every number of an evaluation.

    Attributes:
        run: the facts of the run, see RUN_FIELDS
        counts: numbers of images: images (all with a record), initially_wrong, adversarial (of the initially right),
            undecided (at the clean image or the final point), heavy_tailed (undecided because few evaluations carry the
            variance), unconfirmed (adversarial by the success criterion, not by the final evaluation) and late
            (adversarial by the final evaluation alone)
        single_query: clean and robust: expected accuracy of one answer, over all images; robust is null in a targeted
            run, whose final evaluation counts answers of the target
        mean_logits: clean and robust: accuracy of the mean logits, over all images; an undecided image counts by the
            sign of its mean margin, as wrong in clean_lower and robust_lower, and as right in clean_upper and
            robust_upper
        majority_vote: the same for the most frequent single answer; an image that is initially wrong by its mean
            logits is not attacked, and counts as not robust
        so_far: robust accuracy of the mean logits over all images that a stopped run has begun, unfinished images as
            robust if they are so far; null for a complete run. Finished images alone are a biased sample: adversarial
            images finish first
        attack_success: attack success rate: adversarial share of the initially right images
        declared: robust accuracy by the success criterion during the attack, which the final evaluation may contradict;
            under the paper's criterion and query counting, what its code would report
        first_9_vote_success: robust accuracy if the first candidate that a majority of 9 votes called wrong succeeded;
            null if the criterion took no votes
        curve: robust accuracy (mean_logits.robust) after 1, 2, 5, 10, ... queries and at the budget
        adversarial_images: median_queries and mean_queries billed at the success; median and largest linf and l2 of the
            changes, in pixel units; null without an adversarial image
        ledger: billed queries; attack, gradient, success_check, criterion and padding rows, their sum rows,
            criterion_ratio = criterion / (attack + gradient + success_check) and padding_share = padding / rows
    """

    run: RunFacts
    counts: dict[str, int]
    single_query: SingleQuery
    mean_logits: MeanLogits
    majority_vote: MajorityVote
    so_far: Estimate | None
    attack_success: Estimate
    declared: Estimate
    first_9_vote_success: Estimate | None
    curve: list[CurvePoint]
    adversarial_images: dict[str, float | None]
    ledger: dict[str, Any]


FIELDS = descriptions(Summary)
"""The fields of a summary and their meaning."""


Undecided = Literal["sign", "adversarial", "robust"]
"""How an undecided image counts: by the sign of its mean margin, as adversarial (and wrong), or as robust (and right)."""


def success_query_of(record: Record, undecided: Undecided = "sign") -> int | None:
    """Return the billed queries at which an image became adversarial, None if it is not adversarial.

    The final evaluation decides whether the image is adversarial. An image that the success criterion did not call
    adversarial before counts from its last query on.
    """
    by_sign = "adversarial" if record.final_margin < 0 else "robust"
    counted = by_sign if undecided == "sign" else undecided
    if record.verdict != "adversarial" and not (record.verdict == "undecided" and counted == "adversarial"):
        return None
    return record.billed if record.success_query is None else record.success_query


def is_robust_at(record: Record, queries: int, undecided: Undecided = "sign") -> bool:
    """Return whether an image is initially right and not adversarial after a number of queries."""
    right = record.clean_correct
    if undecided != "sign" and record.clean_verdict == "undecided":
        right = undecided == "robust"
    end = success_query_of(record, undecided)
    return right and (end is None or end > queries)


def robust_at(records: Sequence[Record], queries: int, undecided: Undecided = "sign") -> Estimate:
    """Return the robust accuracy of the mean logits after a number of queries."""
    return Estimate.of(sum(is_robust_at(record, queries, undecided) for record in records), len(records))


def budgets(budget: int) -> list[int]:
    """Return 1, 2, 5, 10, ... below the budget, and the budget.

    Example:
        >>> budgets(30)
        [1, 2, 5, 10, 20, 30]
    """
    steps = (digit * 10**power for power in range(len(str(budget))) for digit in (1, 2, 5))
    return [*(step for step in steps if step < budget), budget]


def was_screened(records: Sequence[Record]) -> bool:
    """Return whether the success criterion took votes, so that `first_9_vote_success` means something.

    The rules "never" and, with a random victim, "single" take no votes.
    """
    believed = any(r.success_query is not None and r.first_9_vote_success is None for r in records)
    ignored = any(r.candidates for r in records) and not any(
        r.voted_candidates or r.first_9_vote_success is not None for r in records
    )
    return not (believed or ignored)


def summarize(records: Sequence[Record], run: RunFacts) -> Summary:
    """Compute every number of an evaluation.

    Two pairs of accuracies are given; a gap is meaningful only within a pair. `single_query` is the expected accuracy
    of one answer of the victim: the mean over the images of the share of right labels, at the clean images and at the
    final points. `mean_logits` classifies by the largest mean logit, as Definition 1 of Nguyen et al. (ICLR 2024)
    does. An image that is initially wrong by its mean logits is not attacked: it counts as not robust in
    `mean_logits`, and in `single_query.robust` with the fresh evaluations of its clean image, which is its final point.

    The Wilson intervals of `single_query` are conservative: a mean of shares in [0, 1] varies at most as much as a
    share with the same mean.

    Args:
        records: One per finished image.
        run: The facts of the run.
    """
    total = len(records)
    right = [record for record in records if record.clean_correct]
    adversarial = [record for record in right if not record.is_robust]
    robust = len(right) - len(adversarial)
    single_clean = math.fsum(1 - r.clean_wrong / r.clean_evaluations for r in records)
    single_robust = math.fsum(1 - r.final_adversarial / r.final_evaluations for r in records)
    screened = sum(r.first_9_vote_success is None for r in right) if was_screened(records) else None
    return Summary(
        run=run,
        counts={
            "images": total,
            "initially_wrong": total - len(right),
            "adversarial": len(adversarial),
            "undecided": sum(not r.is_decided for r in records),
            "heavy_tailed": sum(r.verdict == "undecided" and r.final_tail_share > HEAVY_TAIL for r in records),
            "unconfirmed": sum(r.success_query is not None and r.is_robust for r in right),
            "late": sum(r.success_query is None for r in adversarial),
        },
        single_query=SingleQuery(
            clean=Estimate.of(single_clean, total),
            robust=None if run.targeted else Estimate.of(single_robust, total),
        ),
        mean_logits=_mean_logits(records),
        majority_vote=_majority_vote(records),
        so_far=None if run.complete else Estimate.of(robust + run.in_progress.robust, total + run.in_progress.begun),
        attack_success=Estimate.of(len(adversarial), len(right)),
        declared=Estimate.of(sum(r.success_query is None for r in right), total),
        first_9_vote_success=None if screened is None else Estimate.of(screened, total),
        curve=[
            CurvePoint.of(sum(is_robust_at(record, queries) for record in records), total, queries=queries)
            for queries in budgets(run.budget)
        ],
        adversarial_images=_adversarial_images(adversarial),
        ledger=_ledger(run.totals, sum(record.billed for record in records)),
    )


def _mean_logits(records: Sequence[Record]) -> MeanLogits:
    def clean(*verdicts: str) -> Estimate:
        return Estimate.of(sum(record.clean_verdict in verdicts for record in records), len(records))

    return MeanLogits(
        clean=Estimate.of(sum(record.clean_correct for record in records), len(records)),
        clean_lower=clean("right"),
        clean_upper=clean("right", "undecided"),
        robust=Estimate.of(sum(record.is_robust for record in records), len(records)),
        robust_lower=Estimate.of(
            sum(r.verdict == "robust" and r.clean_verdict == "right" for r in records), len(records)
        ),
        robust_upper=Estimate.of(sum(r.verdict in ("robust", "undecided") for r in records), len(records)),
    )


def _majority_vote(records: Sequence[Record]) -> MajorityVote:
    attacked = [record for record in records if record.verdict != "misclassified"]

    def robust(*verdicts: str) -> Estimate:
        return Estimate.of(sum(record.majority_verdict in verdicts for record in attacked), len(records))

    return MajorityVote(
        clean=Estimate.of(sum(2 * r.clean_wrong < r.clean_evaluations for r in records), len(records)),
        robust=Estimate.of(sum(2 * r.final_adversarial < r.final_evaluations for r in attacked), len(records)),
        robust_lower=robust("robust"),
        robust_upper=robust("robust", "undecided"),
    )


def _adversarial_images(adversarial: list[Record]) -> dict[str, float | None]:
    queries = [end for end in map(success_query_of, adversarial) if end is not None]
    linf, l2 = [record.linf for record in adversarial], [record.l2 for record in adversarial]

    def of(statistic: Callable[[Any], float], values: Sequence[float]) -> float | None:
        return statistic(values) if values else None

    return {
        "median_queries": of(statistics.median, queries),
        "mean_queries": of(statistics.fmean, queries),
        "median_linf": of(statistics.median, linf),
        "max_linf": of(max, linf),
        "median_l2": of(statistics.median, l2),
        "max_l2": of(max, l2),
    }


def _ledger(totals: Rows, billed: int) -> dict[str, Any]:
    return {
        "billed": billed,
        **asdict(totals),
        "rows": totals.total,
        "criterion_ratio": totals.criterion / totals.attacker if totals.attacker else None,
        "padding_share": totals.padding / totals.total if totals.total else None,
    }

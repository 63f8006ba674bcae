"""Summary of an evaluation: accuracies, attack success rate and query counts, computed from its records alone."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from msgspec.structs import asdict

from rfdlight.core.statistics import wilson
from rfdlight.records.facts import Rows, RunFacts
from rfdlight.records.records import Record, interim_queries
from rfdlight.records.schema import Fields


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A share with its 95 % Wilson interval, over a number of images; `value` is NaN of no images.

    Example:
        >>> robust = Estimate.of(9, 10)
        >>> float(robust), round(robust.low, 2), round(robust.high, 2)
        (0.9, 0.6, 0.98)
        >>> print(robust)
        90.0% (59.6 to 98.2)
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
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.1%} ({100 * self.low:.1f} to {100 * self.high:.1f})"


class SingleQuery(Fields, frozen=True, kw_only=True):
    """Expected accuracy of one answer."""

    clean: Estimate
    robust: Estimate | None  # None of a targeted run, whose final evaluation counts answers of the target


class MeanLogits(Fields, frozen=True, kw_only=True):
    """Accuracy of the mean logits; an undecided image counts by the sign of its mean margin, and in the bounds."""

    clean: Estimate
    clean_lower: Estimate
    clean_upper: Estimate
    robust: Estimate
    robust_lower: Estimate
    robust_upper: Estimate


class MajorityVote(Fields, frozen=True, kw_only=True):
    """Accuracy of more than half of the answers; images that are not attacked, or wrong before, are not robust."""

    clean: Estimate
    robust: Estimate
    robust_lower: Estimate
    robust_upper: Estimate


@dataclass(frozen=True, kw_only=True)
class CurvePoint(Estimate):
    """Robust accuracy after a number of queries."""

    queries: int


class Detections(Fields, frozen=True, kw_only=True):
    """What a query policy has detected, over the attacked images."""

    attacks: Estimate  # share of the images with a detected query
    queries: Estimate  # share of the queries
    median_first: float | None  # queries to the first detection, over the images with one
    mean_first: float | None
    refused: int  # queries
    accounts: int  # that all attackers together have opened


class Summary(Fields, frozen=True, kw_only=True):
    """Every number of an evaluation; docs/reference/records.md explains the fields."""

    run: RunFacts
    counts: dict[str, int]
    single_query: SingleQuery
    mean_logits: MeanLogits
    majority_vote: MajorityVote
    so_far: Estimate | None  # over all images that a stopped run has begun: adversarial images finish first
    attack_success: Estimate
    declared: Estimate  # robust accuracy by the success criterion during the attack
    first_9_vote_success: Estimate | None  # robust accuracy if this were a success; None without votes
    curve: list[CurvePoint]
    adversarial_images: dict[str, float | None]
    ledger: dict[str, Any]
    detections: Detections | None  # None without a query policy


Undecided = Literal["sign", "adversarial", "robust"]
"""How an undecided image counts: by the sign of its mean margin, as wrong or adversarial, or as right and robust."""


@dataclass(frozen=True)
class Outcome:
    """Whether the point that the attack submits counts as adversarial, from a number of billed queries on."""

    queries: int
    adversarial: bool


def outcomes(record: Record, undecided: Undecided = "sign") -> list[Outcome]:
    """Return the outcomes of the interim evaluations and of the final evaluation, in order of their queries.

    The final outcome counts from the success on; without success during the attack, from the last query on.
    """
    end = record.billed if record.success_query is None else record.success_query
    evaluated = [(each.queries, each.verdict, each.margin) for each in record.interim if each.queries < end]
    return [
        Outcome(queries, verdict == "adversarial" or (verdict == "undecided" and _is_adversarial(margin, undecided)))
        for queries, verdict, margin in [*evaluated, (end, record.verdict, record.final_margin)]
    ]


def _is_adversarial(margin: float, undecided: Undecided) -> bool:
    return margin < 0 if undecided == "sign" else undecided == "adversarial"


def success_query_of(record: Record, undecided: Undecided = "sign") -> int | None:
    """Return the billed queries from which on every outcome is adversarial, None if the final one is not."""
    found = None
    for outcome in reversed(outcomes(record, undecided)):
        if not outcome.adversarial:
            break
        found = outcome.queries
    return found


def is_robust_at(record: Record, queries: int, undecided: Undecided = "sign") -> bool:
    """Return whether an image is initially right and its last outcome within a number of queries not adversarial."""
    right = record.clean_correct
    if undecided != "sign" and record.clean_verdict == "undecided":
        right = undecided == "robust"
    last = next((each for each in reversed(outcomes(record, undecided)) if each.queries <= queries), None)
    return right and not (last and last.adversarial)


def robust_at(records: Sequence[Record], queries: int, undecided: Undecided = "sign") -> Estimate:
    """Return the robust accuracy of the mean logits after a number of queries."""
    return Estimate.of(sum(is_robust_at(record, queries, undecided) for record in records), len(records))


def budgets(budget: int) -> list[int]:
    """Return 1, 3, the queries of the interim evaluations, and the budget.

    Example:
        >>> budgets(40)
        [1, 3, 10, 30, 40]
    """
    return [*(step for step in (1, 3) if step < budget), *interim_queries(budget), budget]


def took_votes(records: Sequence[Record], run: RunFacts) -> bool:
    """Return whether the first 9-vote success of each image is known.

    On a random victim "sequential" takes no votes, nor do "single" and "never", whose records show it.
    """
    if not run.deterministic and run.criterion != "paper":
        return any(record.first_9_vote_success is not None for record in records)
    believed = any(r.success_query is not None and r.first_9_vote_success is None for r in records)
    ignored = any(r.candidates for r in records) and not any(
        r.voted_candidates or r.first_9_vote_success is not None for r in records
    )
    return not (believed or ignored)


def summarize(records: Sequence[Record], run: RunFacts) -> Summary:
    """Compute every number of an evaluation.

    Three pairs of accuracies are given; a gap is meaningful only within a pair. `single_query` is the mean share of
    right answers. `majority_vote` counts where more than half are right, and `mean_logits` where the largest mean logit
    is, as Definition 1 of Nguyen et al. (ICLR 2024) does. An image that is initially wrong by its mean logits is not
    robust in these two, and counts in `single_query.robust` with the evaluations of its clean image, which is its final
    point. The intervals of `single_query` are conservative: a mean of shares in [0, 1] varies at most as much as a
    share with the same mean.
    """
    total = len(records)
    right = [record for record in records if record.clean_correct]
    adversarial = [record for record in right if not record.is_robust]
    robust = len(right) - len(adversarial)
    single_clean = math.fsum(1 - r.clean_wrong / r.clean_evaluations for r in records)
    single_robust = math.fsum(1 - r.final_adversarial / r.final_evaluations for r in records)
    screened = sum(r.first_9_vote_success is None for r in right) if took_votes(records, run) else None
    return Summary(
        run=run,
        counts={
            "images": total,
            "initially_wrong": total - len(right),
            "adversarial": len(adversarial),
            "undecided": sum(not r.is_decided for r in records),
            "heavy_tailed": sum(record.is_heavy_tailed for record in records),
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
        detections=_detections(records) if run.policy else None,
    )


def _detections(records: Sequence[Record]) -> Detections:
    attacked = [record for record in records if record.verdict != "misclassified"]
    first = [record.first_detected for record in attacked if record.first_detected is not None]
    return Detections(
        attacks=Estimate.of(len(first), len(attacked)),
        queries=Estimate.of(sum(record.detected for record in attacked), sum(record.billed for record in attacked)),
        median_first=statistics.median(first) if first else None,
        mean_first=statistics.fmean(first) if first else None,
        refused=sum(record.refused for record in attacked),
        accounts=sum(record.accounts for record in attacked),
    )


def _mean_logits(records: Sequence[Record]) -> MeanLogits:
    def share(holds: Callable[[Record], bool]) -> Estimate:
        return Estimate.of(sum(map(holds, records)), len(records))

    return MeanLogits(
        clean=share(lambda record: record.clean_correct),
        clean_lower=share(lambda record: record.clean_verdict == "right"),
        clean_upper=share(lambda record: record.clean_verdict != "wrong"),
        robust=share(lambda record: record.is_robust),
        robust_lower=share(lambda record: record.clean_verdict == "right" and record.verdict == "robust"),
        robust_upper=share(lambda record: record.verdict in ("robust", "undecided")),
    )


def _majority_vote(records: Sequence[Record]) -> MajorityVote:
    right = [record for record in records if 2 * record.clean_wrong < record.clean_evaluations]
    attacked = [record for record in right if record.verdict != "misclassified"]
    robust = sum(2 * record.final_adversarial < record.final_evaluations for record in attacked)
    verdicts = Counter(record.majority_verdict for record in attacked)
    return MajorityVote(
        clean=Estimate.of(len(right), len(records)),
        robust=Estimate.of(robust, len(records)),
        robust_lower=Estimate.of(verdicts["robust"], len(records)),
        robust_upper=Estimate.of(verdicts["robust"] + verdicts["undecided"], len(records)),
    )


def _adversarial_images(adversarial: list[Record]) -> dict[str, float | None]:
    queries = [end for end in map(success_query_of, adversarial) if end is not None]
    linf, l2 = [record.linf for record in adversarial], [record.l2 for record in adversarial]
    return {
        "median_queries": statistics.median(queries) if queries else None,
        "mean_queries": statistics.fmean(queries) if queries else None,
        "median_linf": statistics.median(linf) if linf else None,
        "max_linf": max(linf, default=None),
        "median_l2": statistics.median(l2) if l2 else None,
        "max_l2": max(l2, default=None),
    }


def _ledger(totals: Rows, billed: int) -> dict[str, Any]:
    return {
        "billed": billed,
        **asdict(totals),
        "rows": totals.total,
        "criterion_ratio": totals.criterion / totals.attacker if totals.attacker else None,
        "padding_share": totals.padding / totals.total if totals.total else None,
    }

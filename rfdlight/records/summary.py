"""Every number of an evaluation, as one pure function of its records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from rfdlight.core.statistics import wilson
from rfdlight.records.records import Record, clean_right

ROWS = ("attack", "gradient", "success_check", "criterion", "padding")
"""What the rows of the victim's forward passes were for."""

RUN_FIELDS: dict[str, str] = {
    "name": "name of the run directory",
    "attack": "short name of the attack",
    "options": "the attack's own options that were not at their defaults",
    "norm": "linf or l2",
    "eps": "radius of the ball, in pixel units",
    "budget": "billed queries per image",
    "criterion": "rule by which an image counts as adversarial",
    "query_counting": "exact or paper",
    "eot": "evaluations averaged in each query",
    "targeted": "whether a class drawn per image had to be reached",
    "precision": "of the attack's forward passes; the criterion's are float32",
    "victim": "the victim in words, with its weights and clean accuracy",
    "data": "data set, with those of its arguments that are not at their defaults",
    "defense": "the defense in words, with its arguments and its calls per image where there are several, or none",
    "seed": "of the attacks and of the victim's noise",
    "totals": "rows the victim saw: attack, gradient, observe, criterion and padding",
    "wall_seconds": "duration of the attack",
    "deterministic": "whether the victim answers the same every time",
    "complete": "whether every image was finished or failed",
    "failed": "the reason for each image on which the victim failed, by image id; they have no record",
    "num_images": "images asked for",
    "in_progress": "images that a stopped run has begun and not finished, and how many of them were robust so far",
}
"""The facts of a run that its records do not hold."""

ABSENT: dict[str, Any] = {"failed": {}, "in_progress": {"begun": 0, "robust": 0}}
"""What facts are where a file was written before there were such facts."""

FIELDS: dict[str, str] = {
    "run": "the facts of the run, see RUN_FIELDS",
    "counts": "numbers of images: images (all with a record), initially_wrong, broken and undecided (of those "
    "initially right), unconfirmed (called adversarial by the criterion, but the final draws do not say so) and late "
    "(broken by the final draws alone)",
    "single_query": "clean and robust: expected accuracy of one answer, over all images; robust is null in a targeted "
    "run, whose final draws count hits of the target",
    "mean_logits": "clean, robust and robust_lower: accuracy of the mean logits, over all images; an undecided image "
    "counts as robust in robust and as adversarial in robust_lower",
    "so_far": "robust accuracy of the mean logits over all images that a stopped run has begun, those under way as "
    "robust if they were so far; null for a complete run. Finished images alone are a biased sample: images that break "
    "finish first",
    "attack_success": "share of the initially right images with the verdict adversarial",
    "declared": "robust accuracy by the criterion during the attack, which the final evaluation may contradict; "
    "under the paper's criterion and query counting, what its code would report",
    "first_9_vote_success": "robust accuracy if the first candidate that a majority of 9 votes called wrong succeeded; "
    "null if the criterion took no votes",
    "curve": "robust accuracy (mean_logits.robust) after 1, 2, 5, 10, ... queries and at the budget",
    "adversarial_images": "median_queries and mean_queries billed at the break; median and largest linf and l2 of the "
    "changes, in pixel units; null without a broken image",
    "ledger": "billed queries; attack, gradient, observe, criterion and padding rows, their sum rows, "
    "criterion_ratio = criterion / (attack + gradient + success_check) and padding_share = padding / rows",
}
"""The fields of a summary. An accuracy is a dict: share, low and high (95 % interval), total (images)."""

Share = dict[str, Any]


def success_query_of(record: Record, undecided: bool = False) -> int | None:
    """Return the billed queries at which an image broke, None if it is not broken.

    The final draws decide whether it is. If the criterion had not called the image broken before, it counts
    from the last query on.

    Args:
        record: Of the image.
        undecided: Whether an undecided image counts as adversarial, which gives a lower bound.
    """
    verdicts = ("adversarial", "undecided") if undecided else ("adversarial",)
    if not clean_right(record) or record["verdict"] not in verdicts:
        return None
    return record["billed"] if record["success_query"] is None else record["success_query"]


def is_robust_at(record: Record, queries: int, undecided: bool = False) -> bool:
    """Return whether an image counts as robust after so many queries: it was right, and has not broken.

    `undecided` is as in `success_query_of`.
    """
    end = success_query_of(record, undecided)
    return clean_right(record) and (end is None or end > queries)


def robust_at(records: list[Record], queries: int, undecided: bool = False) -> Share:
    """Return the robust accuracy of the mean logits after so many queries, with its interval.

    `undecided` is as in `success_query_of`.
    """
    return share_of(sum(is_robust_at(record, queries, undecided) for record in records), len(records))


def budgets(budget: int) -> list[int]:
    """Return 1, 2, 5, 10, ... below the budget, and the budget.

    Example:
        >>> budgets(30)
        [1, 2, 5, 10, 20, 30]
    """
    steps = (digit * 10**power for power in range(len(str(budget))) for digit in (1, 2, 5))
    return [*(step for step in steps if step < budget), budget]


def was_screened(records: list[Record]) -> bool:
    """Return whether the criterion voted on candidates, so that `first_9_vote_success` means something.

    The rules "never" and, with a random victim, "single" take no votes.
    """
    believed = any(r["success_query"] is not None and r["first_9_vote_success"] is None for r in records)
    ignored = any(r["candidates"] for r in records) and not any(
        r["voted_candidates"] or r["first_9_vote_success"] is not None for r in records
    )
    return not (believed or ignored)


def screened_robust(records: list[Record]) -> Share | None:
    """Return the robust accuracy by the first majority of 9 votes, None if the criterion took no votes."""
    if not was_screened(records):
        return None
    return share_of(sum(clean_right(r) and r["first_9_vote_success"] is None for r in records), len(records))


def shrunk_to(run: dict[str, Any]) -> int | None:
    """Return the images per forward pass at the end of a run in which memory ran out, None for another run."""
    used = run.get("batch_size_used")
    return used if used != run.get("batch_size") else None


def summarize(records: list[Record], run: dict[str, Any]) -> dict[str, Any]:
    """Compute every number of an evaluation.

    Two pairs of accuracies are given, and a gap may be taken only within a pair. `single_query` is what
    one answer of the victim is worth: the mean over the images of the share of right labels, at the
    clean images and at the final points. `mean_logits` criteria by the largest mean logit, as Definition 1
    of Nguyen et al. (ICLR 2024) does. An image that is initially wrong by its mean logits was never
    attacked: it counts as not robust in `mean_logits`, and in `single_query.robust` with the fresh draws at
    its clean image, the final point that it has.

    The intervals are Wilson's. Those of `single_query` are conservative: a mean of shares in [0, 1] varies
    at most as much as a share with the same mean.

    Args:
        records: One per finished image, see `rfdlight.records.records.FIELDS`.
        run: What the records do not hold, see `RUN_FIELDS`.

    Returns:
        What `FIELDS` describes, of types that JSON knows. A share of no images is null.
    """
    total = len(records)
    right = [record for record in records if clean_right(record)]
    adversarial = [record for record in right if record["verdict"] == "adversarial"]
    undecided = sum(record["verdict"] == "undecided" for record in right)
    robust = len(right) - len(adversarial)
    return {
        "run": dict(run),
        "counts": {
            "images": total,
            "initially_wrong": total - len(right),
            "adversarial": len(adversarial),
            "undecided": undecided,
            "unconfirmed": sum(r["success_query"] is not None and r["verdict"] != "adversarial" for r in right),
            "late": sum(r["success_query"] is None for r in adversarial),
        },
        "single_query": {
            "clean": share_of(math.fsum(1 - r["clean_wrong"] / r["clean_evaluations"] for r in records), total),
            "robust": None
            if run["targeted"]
            else share_of(math.fsum(1 - r["final_adversarial"] / r["final_evaluations"] for r in records), total),
        },
        "mean_logits": {
            "clean": share_of(len(right), total),
            "robust": share_of(robust, total),
            "robust_lower": share_of(robust - undecided, total),
        },
        "so_far": _so_far(robust, total, run),
        "attack_success": share_of(len(adversarial), len(right)),
        "declared": share_of(sum(clean_right(r) and r["success_query"] is None for r in records), total),
        "first_9_vote_success": screened_robust(records),
        "curve": [{"queries": queries, **robust_at(records, queries)} for queries in budgets(run["budget"])],
        "adversarial_images": _adversarial_images(adversarial),
        "ledger": {"billed": sum(record["billed"] for record in records), **_ledger(run["totals"])},
    }


def share_of(successes: float, total: int) -> Share:
    """Return a share with Wilson's 95 % interval; of nothing, it is None."""
    low, high = wilson(successes, total)
    return {"share": successes / total if total else None, "low": low, "high": high, "total": total}


def _so_far(robust: int, total: int, run: dict[str, Any]) -> Share | None:
    """Return the robust accuracy over the images begun, None for a complete run."""
    if run.get("complete", True):
        return None
    in_progress = run.get("in_progress", ABSENT["in_progress"])
    return share_of(robust + in_progress["robust"], total + in_progress["begun"])


def _adversarial_images(adversarial: list[Record]) -> dict[str, float | None]:
    queries = [end for end in map(success_query_of, adversarial) if end is not None]
    linf = [record["linf"] for record in adversarial]
    l2 = [record["l2"] for record in adversarial]
    return {
        "median_queries": _of(statistics.median, queries),
        "mean_queries": _of(statistics.fmean, queries),
        "median_linf": _of(statistics.median, linf),
        "max_linf": _of(max, linf),
        "median_l2": _of(statistics.median, l2),
        "max_l2": _of(max, l2),
    }


def _of(statistic: Callable[[Any], float], values: Sequence[float]) -> float | None:
    return statistic(values) if values else None


def _ledger(totals: dict[str, int]) -> dict[str, float | None]:
    attacker = totals["attack"] + totals["gradient"] + totals["success_check"]
    rows = attacker + totals["criterion"] + totals["padding"]
    return {
        **{kind: totals[kind] for kind in ROWS},
        "rows": rows,
        "criterion_ratio": totals["criterion"] / attacker if attacker else None,
        "padding_share": totals["padding"] / rows if rows else None,
    }

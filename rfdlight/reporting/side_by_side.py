"""Runs side by side: every fact and number of each, and its ledger."""

from __future__ import annotations

from collections.abc import Callable

from rfdlight.records.runs import Run
from rfdlight.records.summary import Estimate, robust_at
from rfdlight.reporting.tables import attack_name, incomplete, interval, number, percent


def common_budget(runs: list[Run]) -> int:
    """Return the largest number of queries that every run was given."""
    return min(run.facts.budget for run in runs)


def side_by_side(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Return the lines of the table: a label, indented where it belongs to the one above, and a text per run."""
    rows: list[tuple[str, list[str]]] = []

    def add(label: str, cell: Callable[[Run], str]) -> None:
        rows.append((label, [cell(run) for run in runs]))

    def add_share(label: str, share: Callable[[Run], Estimate | None]) -> None:
        add(label, lambda run: with_interval(share(run)))

    def add_fact(name: str) -> None:
        add(name, lambda run: str(run.facts.as_dict()[name] or "none"))

    def add_median(label: str, name: str) -> None:
        add(label, lambda run: number(run.summary.adversarial_images[name]))

    add("attack", lambda run: attack_name(run.facts))
    if any(run.facts.options != "defaults" for run in runs):
        add_fact("options")
    for name in ("victim", "defense", "data"):
        add_fact(name)
    add("ball", lambda run: f"{run.facts.norm} {run.facts.eps:g}")
    add("queries per image", lambda run: f"{run.facts.budget:,}")
    for name in ("criterion", "query_counting", "precision"):
        add_fact(name)
    if any(run.facts.eot > 1 for run in runs):
        add("evaluations per query", lambda run: str(run.facts.eot))
    add("images", lambda run: incomplete(run.summary) or f"{run.summary.counts['images']:,}")
    add_share("mean logits: clean", lambda run: run.summary.mean_logits.clean)
    add_share("mean logits: robust", lambda run: run.summary.mean_logits.robust)
    add_share("  lower, undecided as adversarial", lambda run: run.summary.mean_logits.robust_lower)
    if len({run.facts.budget for run in runs}) > 1:
        common = common_budget(runs)
        add_share(f"  robust at {common:,} queries", lambda run: robust_at(run.records, common))
    add_share("  by the criterion's calls", lambda run: run.summary.declared)
    add_share("  by the first 9-vote screen", lambda run: run.summary.first_9_vote_success)
    add_share("single answer: clean", lambda run: run.summary.single_query.clean)
    add_share("single answer: robust", lambda run: run.summary.single_query.robust)
    add_share("attack success", lambda run: run.summary.attack_success)
    add("undecided images", lambda run: f"{run.summary.counts['undecided']:,}")
    add_median("median queries to break", "median_queries")
    add_median("median linf of the broken", "median_linf")
    add_median("median l2 of the broken", "median_l2")
    add("billed per image", lambda run: _per_image(run, "billed"))
    add("evaluated per image", lambda run: _per_image(run, "attack", "gradient", "success_check"))
    add("judged per image", lambda run: _per_image(run, "criterion"))
    add("criterion rows per attack row", lambda run: number(run.summary.ledger["criterion_ratio"], 2))
    return rows


def _per_image(run: Run, *kinds: str) -> str:
    images = run.summary.counts["images"]
    return number(sum(run.summary.ledger[kind] for kind in kinds) / images if images else None)


def with_interval(share: Estimate | None) -> str:
    """Return a share and its interval as text, a dash if it is of no images."""
    text = percent(share)
    return text if text == "-" else f"{text} ({interval(share).replace('%', '')})"

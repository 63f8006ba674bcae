"""Tables of runs for a terminal, a notebook and a report, and the texts of shares and run facts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TypeGuard

from msgspec.structs import asdict
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rfdlight.records.diagnostic import Diagnostic, State
from rfdlight.records.facts import ROWS, RunFacts
from rfdlight.records.runs import Run
from rfdlight.records.summary import Estimate, Summary, robust_at
from rfdlight.reporting.templates import render_html

HEADLINE = "robust accuracy (Definition 1)"
"""The name of the main accuracy."""

COMPARE_ONE_KIND = (
    "Compare clean and robust accuracy of one kind only: Definition 1, majority vote, or expected single-query."
)

_FLAG_STYLES = {"warn": "yellow", "fail": "bold red"}
_STATES: dict[State, str] = {"warn": "with a warning", "fail": "failed", "skip": "skipped"}
_ROW_NAMES = {"success_check": "success check", "criterion": "success criterion"}
_FAILURES_SHOWN = 3
_MOST_BUDGETS = 8
"""Columns of the budgets' table that 80 characters have room for."""

ACCURACIES = {
    "clean": "clean accuracy (Definition 1)",
    "robust": HEADLINE,
    "robust_lower": "  undecided images as adversarial",
    "robust_upper": "  undecided images as robust",
    "declared": "  by the success criterion during the attack",
    "first_9_vote_success": "  by the first 9-vote success",
    "majority_clean": "majority-vote clean accuracy",
    "majority_robust": "majority-vote robust accuracy",
    "single_query_clean": "expected single-query clean accuracy",
    "single_query_robust": "expected single-query robust accuracy",
    "attack_success": "attack success rate",
}
"""How text names each accuracy of a run; an indented name belongs to the robust accuracy above it."""


def accuracies(summary: Summary) -> dict[str, Estimate | None]:
    """Return each of `ACCURACIES` of a run's summary, None where undefined."""
    known = {
        "majority_clean": summary.majority_vote.clean,
        "majority_robust": summary.majority_vote.robust,
        "single_query_clean": summary.single_query.clean,
        "single_query_robust": summary.single_query.robust,
        **asdict(summary.mean_logits),
        **asdict(summary),
    }
    return {name: known[name] for name in ACCURACIES}


def results(summary: Summary) -> dict[str, str]:
    """Return every number of a run's summary as text, by its name."""
    counts, ledger, adversarial = summary.counts, summary.ledger, summary.adversarial_images

    def per_image(*kinds: str) -> str:
        return number(sum(ledger[kind] for kind in kinds) / counts["images"] if counts["images"] else None)

    def two(first: str, second: str, quantity: str) -> str:
        one, other = adversarial[f"{first}_{quantity}"], adversarial[f"{second}_{quantity}"]
        return "-" if one is None else f"{first} {number(one)}, {second} {number(other)}"

    rows = [f"{ledger[kind]:,} {_ROW_NAMES.get(kind, kind)}" for kind in ROWS if kind != "gradient" or ledger[kind]]
    return {
        "images": incomplete(summary) or f"{counts['images']:,}",
        **{ACCURACIES[name]: with_interval(share) for name, share in accuracies(summary).items()},
        "misclassified before the attack": f"{counts['initially_wrong']:,}",
        "adversarial images": f"{counts['adversarial']:,}",
        "  by the final evaluation only": f"{counts['late']:,}",
        "unconfirmed successes": f"{counts['unconfirmed']:,}",
        "undecided images": f"{counts['undecided']:,}, {counts['heavy_tailed']:,} with a heavy tail",
        "queries to success": two("median", "mean", "queries"),
        "linf (adversarial)": two("median", "max", "linf"),
        "l2 (adversarial)": two("median", "max", "l2"),
        **_detections(summary),
        "billed queries per image": per_image("billed"),
        "attack rows per image": per_image("attack", "gradient", "success_check"),
        "criterion rows per image": per_image("criterion"),
        "criterion rows per attack row": number(ledger["criterion_ratio"], 2),
        "victim rows": f"{ledger['rows']:,} = {' + '.join(rows)}",
        "time": f"{summary.run.wall_seconds:,.1f} s",
    }


def _detections(summary: Summary) -> dict[str, str]:
    """Return what a query policy has detected as text; nothing without one."""
    found = summary.detections
    if found is None:
        return {}
    median, mean = found.median_first, found.mean_first
    return {
        "attacks detected": with_interval(found.attacks),
        "  queries to the first detection": "-" if mean is None else f"median {number(median)}, mean {number(mean)}",
        "  queries detected": with_interval(found.queries),
        "  refused queries": f"{found.refused:,}",
        "  accounts": f"{found.accounts:,}",
    }


def run_table(summary: Summary) -> Group:
    """Return the table of one run, for a rich console."""
    title, *settings = _title(summary)
    text = Text(f"\n{title}", style="bold")
    for warning in run_warnings(summary):
        text.append(f"\n{warning}", style="bold red")
    text.append("\n" + "\n".join(settings), style="not bold")
    numbers = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    numbers.add_column(no_wrap=True)
    for name, value in results(summary).items():
        numbers.add_row(Text(name), Text(value), style="bold" if name == HEADLINE else "")
    head, robust, *bounds = _curve(summary)
    curve = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    for i, queries in enumerate(head):
        curve.add_column(queries, justify="right" if i else "left")
    curve.add_row(*robust, style="bold")
    for row in bounds:
        curve.add_row(*row)
    return Group(text, numbers, curve, Text("\n".join(_remarks(summary)), style="dim"))


def run_html(summary: Summary) -> str:
    """Return the table of one run as an HTML fragment, for a notebook."""
    parts = {"title": _title(summary), "warnings": run_warnings(summary), "remarks": _remarks(summary)}
    return render_html("run.html.j2", results=results(summary), curve=_curve(summary), headline=HEADLINE, **parts)


def _title(summary: Summary) -> list[str]:
    run = summary.run
    counting = f"{run.query_counting}, {run.eot} evaluations per query" if run.eot > 1 else run.query_counting
    return [
        f"{attack_name(run)} against {run.victim}: {ball(run)}, {run.budget:,} queries per image",
        f"data {run.data}, {summary.counts['images']:,} images; defense {run.defense or 'none'}",
        f"success criterion {run.criterion}, query counting {counting}, {run.precision}, seed {run.seed}",
    ]


def _curve(summary: Summary) -> list[list[str]]:
    points = summary.curve[-_MOST_BUDGETS:]
    return [
        ["after queries", *(f"{point.queries:,}" for point in points)],
        ["robust", *map(percent, points)],
        ["95% from", *(f"{point.low:.1%}" if is_known(point) else "-" for point in points)],
        ["      to", *(f"{point.high:.1%}" if is_known(point) else "-" for point in points)],
    ]


def _remarks(summary: Summary) -> list[str]:
    random = ["The victim is random: this run is reproducible in distribution only."]
    return [COMPARE_ONE_KIND, *([] if summary.run.deterministic else random)]


def side_by_side(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return every setting and number of runs as rows: a name, and a text per run."""
    common = common_budget(runs)
    columns = [_settings(run.facts) | results(run.summary) for run in runs]
    if len({run.facts.budget for run in runs}) > 1:
        for run, column in zip(runs, columns, strict=True):
            column[f"robust accuracy at {common:,} queries"] = with_interval(robust_at(run.records, common))
    return [(name, [column[name] for column in columns]) for name in columns[0]]


def common_budget(runs: Sequence[Run]) -> int:
    """Return the smallest budget of some runs."""
    return min(run.facts.budget for run in runs)


def _settings(run: RunFacts) -> dict[str, str]:
    return {
        "attack": attack_name(run),
        "options": run.options,
        "surrogate": run.surrogate or "none",
        "victim": run.victim,
        "defense": run.defense or "none",
        "data": run.data,
        "ball": ball(run),
        "queries per image": f"{run.budget:,}",
        "success criterion": run.criterion,
        "query counting": run.query_counting,
        "evaluations per query": str(run.eot),
        "precision": run.precision,
    }


def run_warnings(summary: Summary) -> list[str]:
    """Return the reasons why the numbers of a run are incomplete or biased."""
    run, so_far = summary.run, summary.so_far
    warnings = [incomplete(summary)] if incomplete(summary) else []
    if so_far is not None:
        warnings.append(
            "BIASED: adversarial images finish first, so robust accuracy over the finished images is too low; robust "
            f"accuracy so far over all {so_far.total:,} images begun: {percent(so_far)}"
        )
    if run.failed:
        warnings.append(f"FAILED: {len(run.failed):,} of {run.num_images:,} images, excluded from all numbers")
    if run.shrunk_to is not None:
        warnings.append(f"OUT OF MEMORY: the batch size was reduced from {run.batch_size} to {run.shrunk_to} images")
    return warnings


def checks_line(findings: Sequence[Diagnostic]) -> str:
    """Return how many consistency checks of a run passed, warn, failed or were skipped."""
    count = Counter(finding.state for finding in findings)
    parts = [f"{count['ok']} of {len(findings)} passed"]
    return ", ".join(parts + [f"{count[state]} {name}" for state, name in _STATES.items() if count[state]])


def checks_text(findings: Sequence[Diagnostic]) -> Text:
    """Return the consistency checks of a run as text: failures and warnings in full, skipped checks by their reason."""
    text = Text(f"consistency checks: {checks_line(findings)}")
    skipped: dict[str, list[str]] = {}
    for finding in findings:
        if finding.state in _FLAG_STYLES:
            text.append(f"\n  {finding.check}: {finding.found}", style=_FLAG_STYLES[finding.state])
        if finding.state == "skip":
            skipped.setdefault(finding.found, []).append(finding.check)
    for reason, checks in skipped.items():
        text.append(f"\n  skipped: {', '.join(checks)} ({reason})", style="dim")
    return text


def failures_text(failed: dict[str, str], planned: int) -> Text:
    """Return how many of the chosen images failed, with the reasons of the first ones."""
    lines = [f"{len(failed)} of {planned} images failed and are excluded from all numbers:"]
    lines += [f"  {image_id}: {reason}" for image_id, reason in list(failed.items())[:_FAILURES_SHOWN]]
    if len(failed) > _FAILURES_SHOWN:
        lines.append("  and more, see summary.json")
    return Text("\n".join(lines), style="red")


def is_known(share: Estimate | None) -> TypeGuard[Estimate]:
    """Return whether a share is defined and of at least one image."""
    return share is not None and share.total > 0


def percent(share: Estimate | None) -> str:
    """Return a share as text, a dash if it is not known."""
    return f"{share.value:.1%}" if is_known(share) else "-"


def interval(share: Estimate | None) -> str:
    """Return the interval of a share as text, a dash if it is not known."""
    return f"{share.low:.1%} to {share.high:.1%}" if is_known(share) else "-"


def bounds(share: Estimate, between: str = " to ") -> str:
    """Return the interval of a known share in percent, without the sign."""
    return f"{100 * share.low:.1f}{between}{100 * share.high:.1f}"


def with_interval(share: Estimate | None) -> str:
    """Return a share with its interval as text, a dash if it is not known."""
    return f"{percent(share)} ({bounds(share)})" if is_known(share) else "-"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with so many significant digits, whole ones in full, a dash for none."""
    if value is None:
        return "-"
    return f"{int(value):,}" if value == int(value) else f"{value:,.{digits}g}"


def ball(run: RunFacts) -> str:
    """Return norm and eps of a run's facts as text."""
    return f"{run.norm} eps {run.eps:g}"


def run_title(run: RunFacts) -> str:
    """Return attack, short victim name, defense and ball of a run's facts as text."""
    return f"{attack_name(run)} against {short_victim(run.victim)}, {defense_name(run.defense)}: {ball(run)}"


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds.

    Example:
        >>> duration(75), duration(7384.2)
        ('1:15', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def defense_name(defense: str | None) -> str:
    """Return a defense as text."""
    return "undefended" if defense in (None, "none") else defense


def short_victim(victim: str) -> str:
    """Return the name of a victim without its network, weights and accuracy."""
    return re.split(r": | with ", victim, maxsplit=1)[0]


def attack_name(run: RunFacts) -> str:
    """Return the attack of a run's facts as text, with its surrogate and the word "targeted" where it has them."""
    attack = f"targeted {run.attack}" if run.targeted else run.attack
    return attack if run.surrogate is None else f"{attack} with a surrogate {short_victim(run.surrogate)}"


def incomplete(summary: Summary) -> str:
    """Return a warning if images are missing, else an empty text."""
    run, images = summary.run, summary.counts["images"]
    return "" if run.complete else f"INCOMPLETE: {images:,} of {run.num_images:,} images"

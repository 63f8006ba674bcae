"""What a run found, for a terminal of 80 columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rfdlight.records.diagnostic import Diagnostic, State
from rfdlight.records.summary import ROWS, Share, shrunk_to

_FLAG_STYLES = {"warn": "yellow", "fail": "bold red"}

_NAMED_STATES: dict[State, str] = {"warn": "to look at", "fail": "failed", "skip": "not made"}
"""How the states of checks that did not pass are counted."""

_COUNTED = {
    "initially_wrong": "misclassified before the attack",
    "adversarial": "adversarial",
    "undecided": "undecided",
}
"""Counts of a summary, and how a table names them."""

_FAILURES_SHOWN = 3
"""How many of the images that failed are named."""

_MOST_BUDGETS = 8
"""Columns of the budgets' table that 80 characters have room for."""


def run_table(summary: dict[str, Any]) -> Group:
    """Show a summary.

    Args:
        summary: Of `rfdlight.records.summary.summarize`.

    Returns:
        Something that a rich console prints.
    """
    notes = [Text(note, style="dim") for note in _notes(summary)]
    return Group(_title(summary), _accuracies(summary), _curve(summary["curve"]), _facts(summary), *notes)


def audit_line(findings: Sequence[Diagnostic]) -> str:
    """Return how many checks of a run passed, warn, failed and were not made, as text."""
    count = Counter(finding.state for finding in findings)
    parts = [f"{count['ok']} of {len(findings)} checks passed"]
    parts += [f"{count[state]} {name}" for state, name in _NAMED_STATES.items() if count[state]]
    return ", ".join(parts)


def audit_text(findings: Sequence[Diagnostic]) -> Text:
    """Show what a run's own checks found: those that did not pass in full, and why others were not made."""
    text = Text(f"audit: {audit_line(findings)}")
    for finding in findings:
        if finding.state in _FLAG_STYLES:
            text.append(f"\n  {finding.check}: {finding.found}", style=_FLAG_STYLES[finding.state])
    for reason, checks in _not_made(findings).items():
        text.append(f"\n  not made: {', '.join(checks)} ({reason})", style="dim")
    return text


def _not_made(findings: Sequence[Diagnostic]) -> dict[str, list[str]]:
    """Return the checks that were not made, by the reason."""
    skipped: dict[str, list[str]] = {}
    for finding in findings:
        if finding.state == "skip":
            skipped.setdefault(finding.found, []).append(finding.check)
    return skipped


def failures_text(failed: dict[str, str], asked: int) -> Text:
    """Say on how many of the images asked for the victim failed, and why on the first ones."""
    lines = [f"{len(failed)} of {asked} images failed and are in no number:"]
    lines += [f"  {image_id}: {reason}" for image_id, reason in list(failed.items())[:_FAILURES_SHOWN]]
    if len(failed) > _FAILURES_SHOWN:
        lines.append("  and more, see summary.json")
    return Text("\n".join(lines), style="red")


def percent(share: Share | None) -> str:
    """Return a share as text, a dash if it is of no images."""
    return "-" if share is None or share["share"] is None else f"{share['share']:.1%}"


def interval(share: Share | None) -> str:
    """Return a share's interval as text."""
    return "-" if share is None or share["share"] is None else f"{share['low']:.1%} to {share['high']:.1%}"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with so many significant digits, whole ones in full, a dash for none."""
    if value is None:
        return "-"
    return f"{int(value):,}" if value == int(value) else f"{value:,.{digits}g}"


def run_title(run: dict[str, Any]) -> str:
    """Return the attack, the victim without its details, the defense and the ball of a run's facts, as text."""
    defense = "undefended" if run["defense"] in (None, "none") else run["defense"]
    ball = f"{run['norm']} eps {run['eps']:.4g}"
    return f"{attack_name(run)} against {short_victim(run['victim'])}, {defense}: {ball}"


def short_victim(victim: str) -> str:
    """Return the name of a victim without its network, weights and accuracy.

    Example:
        >>> short_victim("resnet8-digits: resnet8 trained on digits")
        'resnet8-digits'
    """
    return re.split(r": | with ", victim, maxsplit=1)[0]


def attack_name(run: dict[str, Any]) -> str:
    """Return the attack of a run's facts, and whether it was targeted, as text."""
    return f"targeted {run['attack']}" if run["targeted"] else run["attack"]


def incomplete(summary: dict[str, Any]) -> str:
    """Return a remark if images are missing, else an empty text."""
    run, images = summary["run"], summary["counts"]["images"]
    return "" if run["complete"] else f"INCOMPLETE: {images:,} of {run['num_images']:,} images"


def _bias(summary: dict[str, Any]) -> str:
    """Return why the robust accuracy of an incomplete run is too low, an empty text for a complete run."""
    so_far = summary["so_far"]
    if so_far is None:
        return ""
    begun, robust = (summary["run"]["in_progress"][name] for name in ("begun", "robust"))
    remark = "BIASED: images that break finish first, so that robust accuracy over the finished images is too low"
    return (
        f"{remark}; {percent(so_far)} with the {begun:,} under way, {robust:,} of them robust so far"
        if begun
        else remark
    )


def _remarks(summary: dict[str, Any]) -> list[str]:
    """Return what has to be known of a run before its numbers."""
    run = summary["run"]
    remarks = [remark for remark in (incomplete(summary), _bias(summary)) if remark]
    if run["failed"]:
        remarks.append(f"FAILED: {len(run['failed']):,} of {run['num_images']:,} images, in no number")
    if shrunk_to(run) is not None:
        remarks.append(f"MEMORY RAN OUT: forward passes shrank from {run['batch_size']} to {shrunk_to(run)} images")
    return remarks


def _title(summary: dict[str, Any]) -> Text:
    run = summary["run"]
    ball = f"{run['norm']} eps {run['eps']:g}, {run['budget']:,} queries per image"
    query_counting = (
        f"{run['query_counting']}, {run['eot']} evaluations per query" if run["eot"] > 1 else run["query_counting"]
    )
    lines = [
        f"{attack_name(run)} against {run['victim']}: {ball}",
        f"data {run['data']}, {summary['counts']['images']:,} images; defense {run['defense'] or 'none'}",
        f"criterion {run['criterion']}, query counting {query_counting}, {run['precision']}, seed {run['seed']}",
    ]
    title = Text("\n" + lines[0], style="bold")
    for remark in _remarks(summary):
        title.append(f"\n{remark}", style="bold red")
    return title.append("\n" + "\n".join(lines[1:]), style="not bold")


def _accuracies(summary: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    complete = summary["run"]["complete"]
    table.add_column(f"accuracy over {'all' if complete else 'finished'} images", min_width=44)
    table.add_column("share", justify="right")
    table.add_column("95% interval", justify="right")

    def row(label: str, share: Share | None, style: str = "") -> None:
        table.add_row(label, percent(share), interval(share), style=style)

    mean, single, counts = summary["mean_logits"], summary["single_query"], summary["counts"]
    row("mean logits: clean", mean["clean"])
    if not complete:
        row("mean logits: robust so far, over images begun", summary["so_far"], "bold")
    row("mean logits: robust, undecided as robust", mean["robust"], "bold" if complete else "")
    row(f"  lower bound, the {counts['undecided']:,} undecided as adversarial", mean["robust_lower"])
    row("  by the criterion's calls in the run instead", summary["declared"])
    screened = summary["first_9_vote_success"]
    row(f"  by the first 9-vote screen{' (no votes)' if screened is None else ''}", screened)
    row("single answer: clean", single["clean"])
    row("single answer: robust, expected", single["robust"])
    table.add_section()
    right = counts["images"] - counts["initially_wrong"]
    row(f"attack success, of the {right:,} initially right", summary["attack_success"])
    return table


def _curve(curve: list[dict[str, Any]]) -> Table:
    shown = curve[-_MOST_BUDGETS:]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("after queries")
    for point in shown:
        table.add_column(f"{point['queries']:,}", justify="right")
    table.add_row("robust", *(percent(point) for point in shown), style="bold")
    for label, bound in (("95% from", "low"), ("      to", "high")):
        table.add_row(label, *("-" if point["share"] is None else f"{point[bound]:.1%}" for point in shown))
    return table


def _facts(summary: dict[str, Any]) -> Table:
    counts, adversarial, ledger, run = (summary[name] for name in ("counts", "adversarial_images", "ledger", "run"))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    images = [f"{counts[name]:,} {said}" for name, said in _COUNTED.items()]
    table.add_row("images", ", ".join(images))
    if counts["late"]:
        table.add_row("", f"{counts['late']:,} of the broken found by the final draws alone")
    if counts["unconfirmed"]:
        table.add_row("", f"{counts['unconfirmed']:,} called adversarial, but not by the final draws")
    if counts["adversarial"]:
        queries = f"median {number(adversarial['median_queries'])}, mean {number(adversarial['mean_queries'])}"
        table.add_row("queries to break", queries)
        for norm in ("linf", "l2"):
            lengths = f"median {number(broken[f'median_{norm}'])}, largest {number(broken[f'max_{norm}'])}"
            table.add_row(f"{norm} of the broken", lengths)
    kinds = " + ".join(f"{ledger[kind]:,} {kind}" for kind in ROWS if kind != "gradient" or ledger[kind])
    table.add_row("queries billed", f"{ledger['billed']:,}")
    table.add_row("rows of the victim", f"{ledger['rows']:,} = {kinds}")
    if ledger["criterion_ratio"] is not None:
        table.add_row(
            "criterion's share", f"{ledger['criterion_ratio']:.2f} criterion rows per row of the attack, none billed"
        )
    table.add_row("time", f"{run['wall_seconds']:,.1f} s")
    return table


def _notes(summary: dict[str, Any]) -> list[str]:
    notes = ["\nTake gaps within one pair only: mean logits or single answers."]
    if not summary["run"]["deterministic"]:
        notes.append("The victim is random: this run can be repeated in distribution only.")
    return notes

"""The table of a standard evaluation for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rfdlight.records.standard import Settings, StandardSummary
from rfdlight.reporting.tables import HEADLINE, number, percent, short_victim, with_interval


def standard_table(settings: Settings, summary: StandardSummary) -> Group:
    """Return the table of a standard evaluation, for a rich console."""
    counts = summary.counts
    title = (
        f"\n{settings.version} ({settings.access}) against {short_victim(settings.victim)}: {settings.norm} eps "
        f"{settings.eps:g}, {settings.budget:,} queries per attack"
    )
    text = Text(title, style="bold")
    text.append(f"\ndata {settings.data}, defense {settings.defense}, seed {settings.seed}", style="not bold")
    numbers = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    rows = {
        "images": f"{counts['images']:,}" + (f", {counts['failed']:,} more failed" if counts["failed"] else ""),
        "clean accuracy (Definition 1)": with_interval(summary.clean),
        HEADLINE: with_interval(summary.robust),
        "  undecided images as adversarial": with_interval(summary.robust_lower),
        "  undecided images as robust": with_interval(summary.robust_upper),
        f"  with {summary.stage_share:,} queries per attack, at most": with_interval(summary.split_budget),
        "undecided images": f"{counts['undecided']:,}",
        "queries": f"{summary.ledger['queries']:,}",
        "victim rows": f"{summary.ledger['rows']:,}",
        "time": f"{summary.wall_seconds:,.1f} s",
    }
    for name, value in rows.items():
        numbers.add_row(name, value, style="bold" if name == HEADLINE else "")
    stages = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    stages.add_column("attack", no_wrap=True)
    for column in ("images", "adversarial", "of all", "queries", "rows", "seconds"):
        stages.add_column(column, justify="right")
    for stage in summary.stages:
        counted = (stage.images, stage.adversarial, percent(stage.share), stage.queries, stage.rows.total)
        cells = (cell if isinstance(cell, str) else f"{cell:,}" for cell in counted)
        stages.add_row(stage.attack, *cells, number(round(stage.seconds, 1)))
    for name in settings.stages[len(summary.stages) :]:
        stages.add_row(name, "0", *["-"] * 5)
    return Group(text, numbers, stages)

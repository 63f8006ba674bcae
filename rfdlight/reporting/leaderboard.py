"""A leaderboard of standard evaluations: a static HTML page, and one JSON file per entry."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import rfdlight
from rfdlight._io import write_file
from rfdlight.records.leaderboard import FOLDER, Entry, add_entries
from rfdlight.reporting import tables
from rfdlight.reporting.templates import render_html

PAGE = "index.html"
"""In the folder of a leaderboard: the page."""


def write_leaderboard(folder: Path, entries: Sequence[Entry]) -> int:
    """Add entries to the leaderboard in a folder and write its page; return how many entries it has.

    Raises:
        UserError: As `add_entries`.
    """
    every = add_entries(folder, entries)
    write_file(folder / PAGE, leaderboard_page(every))
    return len(every)


def leaderboard_page(entries: Sequence[Entry]) -> str:
    """Return the page of a leaderboard: a table of each setting, the most robust entry first."""
    return render_html(
        "leaderboard.html.j2",
        groups=ranked(entries),
        count=len(entries),
        folder=FOLDER,
        tables=tables,
        version=rfdlight.__version__,
    )


def ranked(entries: Sequence[Entry]) -> list[tuple[Entry, list[Entry]]]:
    """Return the entries of each setting, the most robust first, behind one that names the setting."""

    def rank(entry: Entry) -> tuple[float, float, str]:
        return -entry.ranked.value, -entry.robust_lower.value, entry.name

    settings = groupby(sorted(entries, key=_setting), key=_setting)
    groups = [sorted(group, key=rank) for _, group in settings]
    return [(group[0], group) for group in groups]


def _setting(entry: Entry) -> tuple[str, str, float, int, str, str]:
    """Return what entries of one table share."""
    return entry.data, entry.norm, entry.eps, entry.budget, entry.access, entry.version

"""Writes the tables of docs/results/default-options.md and docs/results/other-libraries.md from what was measured.

Usage: python benchmarks/comparison_tables.py [--docs docs/results] [--check]

A JSON file beside each page has the records that scripts put there with --keep, under the names below. A table stands
below the commands of its records, between two comments of the page. With --check nothing is written, and the exit
status says whether the pages have these tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peers_random_victim
import peers_strength
import stateful
import tuning
from page_tables import below_commands, kept, write
from reproduction_records import table

Record = dict[str, Any]


def strength(*records: Record) -> str:
    """Return the shares of robust images after the budgets, attack by attack."""
    head = ["attack at its defaults", "images", *(f"{budget} queries" for budget in peers_strength.BUDGETS)]
    rows = []
    for record in records:
        for name, firsts in record["rows"].items():
            images = len(next(iter(firsts.values())))
            rows.append([name, str(images), *peers_strength.cells(firsts)])
    return table(head, rows)


def random_victim(record: Record) -> str:
    """Return the query counts of Square, and its successes on a random victim."""
    rows = [[name, *peers_random_victim.cells(**measured)] for name, measured in record["rows"].items()]
    return table(peers_random_victim.HEAD, rows)


def speed(*records: Record) -> str:
    """Return the speeds of attacks, as the script has written them."""
    return table(records[0]["head"], [row for record in records for row in record["rows"]])


def tuned(*records: Record) -> str:
    """Return the variants of a tuning script, with the columns of all records side by side."""
    columns = {title: None for record in records for row in record["rows"].values() for title in row}
    rows: dict[str, dict[str, tuning.Measured]] = {}
    for record in records:
        for name, cells in record["rows"].items():
            rows.setdefault(name, {}).update(cells)
    lines = [[name, *(tuning.text(by[title]) if title in by else "" for title in columns)] for name, by in rows.items()]
    return table(["attack", *columns], lines)


def blacklight(record: Record) -> str:
    """Return attacks on Blacklight."""
    rows = []
    for row in record["rows"]:
        measured = {name: value for name, value in row.items() if name != "attack"}
        rows.append([row["attack"], *stateful.cells(**measured)])
    return table(stateful.HEAD, rows)


Tables = Mapping[str, tuple[Callable[..., str], tuple[str, ...]]]
"""Of each table of a page, the function that makes it and the names of its records."""

PAGES: dict[str, Tables] = {
    "default-options": {
        "square": (tuned, ("square",)),
        "probes": (tuned, ("probes-linf", "probes-l2")),
        "noise": (tuned, ("noise-linf", "noise-l2")),
        "parsimonious": (tuned, ("parsimonious",)),
        "opt": (tuned, ("opt-linf", "opt-l2")),
        "evolutionary": (tuned, ("evolutionary",)),
        "blacklight": (blacklight, ("blacklight",)),
    },
    "other-libraries": {
        "linf": (strength, ("linf-square", "linf-others", "linf-signopt")),
        "l2": (strength, ("l2-square-hsja", "l2-others")),
        "random victim": (random_victim, ("random-victim",)),
        "speed": (speed, ("speed-square", "speed")),
    },
}


def of_page(docs: Path, page: str) -> dict[str, str]:
    """Return the tables of a page whose records are there, each below the commands of the records."""
    records, found = kept(docs / f"{page}.json"), {}
    for name, (made, names) in PAGES[page].items():
        used = [records[each] for each in names if each in records]
        if used:
            found[name] = below_commands(made(*used), *used)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a page has other tables")
    options = parser.parse_args()
    pages = {page: of_page(options.docs, page) for page in PAGES}
    return max(write(options.docs / f"{page}.md", tables, options.check) for page, tables in pages.items())


if __name__ == "__main__":
    sys.exit(main())

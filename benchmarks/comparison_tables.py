"""Writes the tables of docs/results/default-options.md and docs/results/other-libraries.md from what was measured.

Usage: python benchmarks/comparison_tables.py RUNS [--docs docs/results] [--check]

RUNS holds the runs whose commands the first page shows, as docs/results/option-records.tar.xz unpacks them. The scripts
put the rest into a JSON file of each page's name with --keep: each table stands below the commands of its records. With
--check nothing is written, and the exit status says whether the pages have these tables.
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
from page_tables import kept, write
from reproduction_records import table

from rfdlight.records.runs import load_run
from rfdlight.reporting.tables import with_interval

Record = dict[str, Any]

AAA = ("down", "up", "both", "sawtooth", "bernoulli")
SURROGATE = {"1": "`transfer`, 1 point", "transfer": "`transfer`", "prgf": "`prgf`"}


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
    """Return attacks on Blacklight, and its false positives."""
    rows = []
    for row in record["rows"]:
        measured = {name: value for name, value in row.items() if name != "attack"}
        rows.append([row["attack"], *stateful.cells(**measured)])
    return table(stateful.HEAD, rows)


Tables = Mapping[str, tuple[Callable[..., str], tuple[str, ...]]]
"""Of each table of a page, the function that makes it and the names of its records."""

LIBRARIES: Tables = {
    "linf": (strength, ("linf-square", "linf-others", "linf-signopt")),
    "l2": (strength, ("l2-square-hsja", "l2-others")),
    "random victim": (random_victim, ("random-victim",)),
    "speed": (speed, ("speed-square", "speed")),
}
OPTIONS: Tables = {
    "square": (tuned, ("square",)),
    "probes": (tuned, ("probes-linf", "probes-l2")),
    "noise": (tuned, ("noise",)),
    "parsimonious": (tuned, ("parsimonious",)),
    "opt": (tuned, ("opt",)),
    "evolutionary": (tuned, ("evolutionary",)),
    "blacklight": (blacklight, ("blacklight",)),
}


def measured(file: Path, tables: Tables) -> dict[str, str]:
    """Return the tables of a page, each below the commands of its records."""
    records = kept(file)
    found = {}
    for name, (made, names) in tables.items():
        used = [records[each] for each in names]
        commands = "\n".join(record["command"] for record in used)
        found[name] = f"```sh\n{commands}\n```\n\n{made(*used)}"
    return found


def aaa(runs: Path) -> str:
    """Return what attacks on AAA leave."""
    names = ["`bernoulli`" if name == "bernoulli" else f"`square`, `follow` `{name}`" for name in AAA]
    found = [load_run(runs / "aaa" / name, name).robust_accuracy for name in AAA]
    return table(["attack", "robust accuracy"], zip(names, map(with_interval, found), strict=True))


def surrogate(runs: Path) -> str:
    """Return what attacks with a surrogate leave, behind noise and without it."""
    rows = []
    for end, name in SURROGATE.items():
        found = [load_run(runs / "surrogate" / f"{noise}-{end}", noise) for noise in ("noise", "undefended")]
        rows.append([name, f"{found[0].facts.budget}", *(with_interval(run.robust_accuracy) for run in found)])
    return table(["attack", "queries", "with noise", "without"], rows)


def pages(docs: Path, runs: Path) -> dict[str, dict[str, str]]:
    """Return the tables of each page."""
    return {
        "default-options.md": {
            **measured(docs / "default-options.json", OPTIONS),
            "aaa": aaa(runs),
            "surrogate": surrogate(runs),
        },
        "other-libraries.md": measured(docs / "other-libraries.json", LIBRARIES),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a page has other tables")
    options = parser.parse_args()
    found = pages(options.docs, options.runs)
    return max(write(options.docs / page, tables, options.check) for page, tables in found.items())


if __name__ == "__main__":
    sys.exit(main())

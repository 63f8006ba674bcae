"""Tables of a page between two comments, `<!-- NAME -->` and `<!-- end NAME -->`, and JSON files of measured tables."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rfdlight.errors import UserError


def write(page: Path, tables: Mapping[str, str], check: bool) -> int:
    """Put tables into a page, or only compare if `check`; return the exit status, 1 for a page that differs."""
    before = text = page.read_text()
    for name, made in tables.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end {name} -->)", re.DOTALL)
        if not between.search(text):
            raise UserError(f"{page}: expected <!-- {name} -->, got a page without it")
        text = between.sub(lambda found, made=made: f"{found[1]}\n{made}\n{found[2]}", text)
    if not check:
        page.write_text(text)
    elif text != before:
        print(f"{page} does not have the tables of the records; without --check this writes them")
    return int(check and text != before)


def add_keep(parser: argparse.ArgumentParser) -> None:
    """Add the option by which a benchmark keeps its table."""
    parser.add_argument("--keep", nargs=2, metavar=("FILE", "NAME"), help="a JSON file of tables, and the table's name")


def keep(options: argparse.Namespace, head: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> None:
    """Put a measured table into the JSON file that was named, if one was, with the command that is running."""
    if options.keep:
        file, name = Path(options.keep[0]), options.keep[1]
        tables = json.loads(file.read_text()) if file.exists() else {}
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        tables[name] = {"command": command, "title": title, "head": list(head), "rows": [list(row) for row in rows]}
        file.write_text(json.dumps(tables, indent=1) + "\n")


def kept(file: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of a JSON file by name: command, title, head and rows."""
    tables: dict[str, dict[str, Any]] = json.loads(file.read_text())
    return tables

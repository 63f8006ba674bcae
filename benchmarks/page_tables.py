"""Tables of a page between two comments, `<!-- NAME -->` and `<!-- end NAME -->`, and JSON files of measurements."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rfdlight.errors import UserError

PEERS = {"torchattacks": "torchattacks", "foolbox": "foolbox", "adversarial-robustness-toolbox": "art"}
"""Compared libraries, and the packages that they import as."""


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
    """Add the option by which a benchmark keeps what it measures."""
    parser.add_argument("--keep", nargs=2, metavar=("FILE", "NAME"), help="a JSON file, and the record's name in it")


def keep(options: argparse.Namespace, **measured: object) -> None:
    """Put what was measured into the JSON file that was named, if one was, with the command and the versions."""
    if options.keep:
        file, name = Path(options.keep[0]), options.keep[1]
        records = json.loads(file.read_text()) if file.exists() else {}
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        records[name] = {"command": command, "versions": versions(), **measured}
        text = json.dumps(records, indent=1)
        lists = re.compile(r"\[\s+(\d+(?:,\s+\d+)*)\s+\]")  # of integers, which fill a line
        file.write_text(lists.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")


def below_commands(text: str, *records: Mapping[str, Any]) -> str:
    """Return a table below the commands of its records."""
    commands = "\n".join(record["command"] for record in records)
    return f"```sh\n{commands}\n```\n\n{text}"


def versions() -> dict[str, str]:
    """Return the versions of torch and of the compared libraries that are installed."""
    installed = {name: version(name) for name in ("torch", *PEERS) if find_spec(PEERS.get(name, name))}
    return {name: found.partition("+")[0] for name, found in installed.items()}


def kept(file: Path) -> dict[str, dict[str, Any]]:
    """Return the records of a JSON file by name: the command, the versions and what was measured."""
    records: dict[str, dict[str, Any]] = json.loads(file.read_text())
    return records

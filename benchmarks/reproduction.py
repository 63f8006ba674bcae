"""Writes the tables of docs/results/reproduction.md from the records of their runs.

Usage: python benchmarks/reproduction.py RUNS [--page docs/results/reproduction.md] [--check]

RUNS holds a folder per cell, as `rfdlight sweep` leaves them, or as docs/results/reproduction-records.tar.xz unpacks,
and `analysis`, which `rfdlight analyze` writes for table 6. Each table stands between two comments of the page,
`<!-- NAME -->` and `<!-- end NAME -->`, and takes the place of what is there. With --check nothing is written, and the
exit status says whether the page is what the records say.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from reproduction_records import Records
from reproduction_tables import TABLES

from rfdlight.errors import UserError


def write(page: Path, records: Records, check: bool) -> bool:
    """Put the tables into the page; return whether it was what they say."""
    before = text = page.read_text()
    for name, make in TABLES.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end {name} -->)", re.DOTALL)
        if not between.search(text):
            raise UserError(f"{page} has no place for the table {name}")
        made = make(records)
        text = between.sub(lambda found, made=made: f"{found[1]}\n{made}\n{found[2]}", text)
    if not check:
        page.write_text(text)
    return text == before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/results/reproduction.md"))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        same = write(options.page, Records(options.runs), options.check)
    except UserError as error:
        parser.error(str(error))
    if options.check and not same:
        print(f"{options.page} is not what the records say; without --check this writes it")
    return int(options.check and not same)


if __name__ == "__main__":
    sys.exit(main())

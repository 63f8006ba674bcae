"""Writes the tables of docs/results/reproduction.md from the records of their runs.

Usage: python benchmarks/reproduction.py RUNS [--page docs/results/reproduction.md] [--check]

RUNS holds a folder per cell, as `rfdlight sweep` leaves them, or as docs/results/reproduction-records.tar.xz unpacks,
and `analysis`, which `rfdlight analyze` writes for table 6. Each table stands between two comments of the page,
`<!-- NAME -->` and `<!-- end NAME -->`, and takes the place of what is there. With --check nothing is written, and the
exit status says whether the page is what the records say.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from page_tables import write
from reproduction_records import Records
from reproduction_tables import TABLES

from rfdlight.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/results/reproduction.md"))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        records = Records(options.runs)
        return write(options.page, {name: make(records) for name, make in TABLES.items()}, options.check)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())

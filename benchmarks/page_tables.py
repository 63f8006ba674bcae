"""Tables of a page between two comments, `<!-- NAME -->` and `<!-- end NAME -->`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

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

"""The pages of the documentation, and the blocks of code and output in them."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_named(name: str) -> Path:
    (page,) = (ROOT / "docs").rglob(name)
    return page


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in BLOCK.findall(page.read_text()) if found == language]


def shown(page: str, name: str) -> str:
    """What stands between the two comments of a name."""
    found = re.search(rf"<!-- {name} -->\n\n(.*?)\n\n<!-- end {name} -->", page_named(page).read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def prose(page: Path) -> str:
    return " ".join(page.read_text().split())


def unpacked(archive: str, folder: Path) -> Path:
    """Unpack the stored records of a page of results; return their folder."""
    with tarfile.open(ROOT / "docs/results" / archive) as records:
        records.extractall(folder, filter="data")
    return folder / "runs"

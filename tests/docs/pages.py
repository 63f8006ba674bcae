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


def unpacked(archive: str, folder: Path) -> Path:
    """Unpack the stored records of a page of results; return their folder."""
    with tarfile.open(ROOT / "docs/results" / archive) as records:
        records.extractall(folder, filter="data")
    return folder / "runs"

"""The table of the standard evaluation's results against the records that come along."""

import tarfile
from pathlib import Path

import rfdlight as rfd

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def text(share):
    return f"{100 * share.value:.1f} ({100 * max(share.low, 0):.1f} to {100 * share.high:.1f})"


def test_each_row_is_that_of_its_records(tmp_path):
    with tarfile.open(DOCS / "results/standard-records.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    page = (DOCS / "explanation/standard-evaluation.md").read_text()
    rows = [line for line in page.splitlines() if "| **" in line]
    found = sorted((tmp_path / "runs/standard").iterdir())
    assert len(rows) == len(found) > 0
    for folder in found:
        run = rfd.load_standard(folder)
        cells = f"| {len(run.images)} | {text(run.clean_accuracy)} | {text(run.stages[0].robust_accuracy)} | "
        cells += f"**{text(run.robust_accuracy)}** | "
        matching = [row for row in rows if cells in row and f"| {run.rows.total:,} |" in row]
        assert len(matching) == 1, folder.name

"""The tables of the page on the paper's tables are those of the records that come along."""

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_says_what_the_records_say(tmp_path):
    with tarfile.open(ROOT / "docs/reproduction-records.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    line = [sys.executable, "benchmarks/reproduction.py", str(tmp_path / "runs/paper"), "--check"]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, ""), found.stderr

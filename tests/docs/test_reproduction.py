"""The tables of the page on the paper's tables are those of the stored records."""

import importlib
import sys
import tarfile

import pytest
from pages import ROOT


@pytest.mark.slow
def test_the_page_has_the_tables_of_the_records(tmp_path, monkeypatch):
    with tarfile.open(ROOT / "docs/results/reproduction-records.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["reproduction.py", str(tmp_path / "runs/paper"), "--check"])
    assert importlib.import_module("reproduction").main() == 0

"""The tables of the page on the paper's tables are those of the stored records."""

import importlib
import sys

import pytest
from pages import ROOT, unpacked


@pytest.mark.slow
def test_the_page_has_the_tables_of_the_records(tmp_path, monkeypatch):
    runs = unpacked("reproduction-records.tar.xz", tmp_path)
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["reproduction.py", str(runs / "paper"), "--check"])
    assert importlib.import_module("reproduction").main() == 0

"""Fixtures of the tests of the pages."""

from typing import Any

import pytest

import rfdlight as rfd

FEW = 4


@pytest.fixture
def quick_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations of a few queries per image without sanity checks: the Python of a page runs, with other numbers."""

    def quick(function: Any, **options: Any) -> Any:
        def call(*args: Any, budget: int = 1000, **given: Any) -> Any:
            return function(*args, budget=min(budget, FEW), **given, **options)

        return call

    monkeypatch.setattr(rfd, "evaluate", quick(rfd.evaluate, sanity_checks=False))
    monkeypatch.setattr(rfd, "standard", quick(rfd.standard))

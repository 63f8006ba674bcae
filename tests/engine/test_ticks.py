"""Launches and waits of the passes of queries, as `benchmarks/ticks.py` counts them."""

import importlib
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from rfdlight.attacks import NES, RandomNoise, SignHunt, Square
from rfdlight.core.tensors import free_reads
from tests.harness import Run, labelled, small_network

ROOT = Path(__file__).parents[2]
EPS = {"linf": 0.02, "l2": 0.2}


@pytest.fixture
def ticks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("ticks")


def ordinary(ticks, attack, deterministic=True):
    """The launches and waits of the ordinary passes of a short run; all passes of an attack do the same."""
    chosen = [tick for tick in ticks.counted(attack, 8, deterministic) if tick.ordinary]
    assert chosen
    launches, waits = ticks.totals_of(chosen)
    return max(launches), max(waits)

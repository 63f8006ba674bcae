"""Launches and waits of the passes of queries, as `benchmarks/ticks.py` counts them."""

import importlib
from pathlib import Path

import pytest
import torch
from harness import Run, labelled, small_network

from rfdlight.attacks import NES, Bernoulli, RandomNoise, RayS, SignHunt, Square
from rfdlight.core.tensors import free_reads
from rfdlight.defenses import LogitNoise
from rfdlight.engine.criteria.sequential import SequentialCriterion

WAITS = 2
LAUNCHES = {
    "square": (Square, 110),
    "square l2": (Square, 150),
    "bernoulli": (Bernoulli, 100),
    "nes": (NES, 120),
    "rays": (RayS, 80),
    "signhunt": (SignHunt, 80),
    "random_noise": (RandomNoise, 80),
}


def made(kind, norm="linf"):
    return kind(eps=0.02 if norm == "linf" else 0.2, norm=norm)


@pytest.fixture
def ticks(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("ticks")


def ordinary(ticks, attack, deterministic=True):
    """The launches and waits of the ordinary passes of a short run; on a GPU all passes of an attack do the same."""
    return ticks.totals_of([tick for tick in ticks.counted(attack, 6, deterministic) if tick.ordinary])


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_pass_of_queries_waits_twice_and_launches_little(ticks, name):
    kind, bound = LAUNCHES[name]
    launches, waits = ordinary(ticks, made(kind, "l2" if name.endswith("l2") else "linf"))
    assert max(waits) <= WAITS
    assert max(launches) <= bound


def test_behind_noise_a_pass_of_queries_waits_twice_too(ticks):
    launches, waits = ordinary(ticks, made(SignHunt), deterministic=False)
    assert max(waits) <= WAITS
    assert min(launches) <= 80  # of passes whose images are neighbours in the pool


READS = [
    lambda loss: bool((loss > 0).any()),
    lambda loss: loss.tolist(),
    lambda loss: loss.max().item(),
    lambda loss: loss.cpu(),
    lambda loss: loss.to("cpu"),
    lambda loss: loss[loss > 0],
    lambda loss: (loss > 0).nonzero(),
    lambda loss: loss.masked_fill_(loss > torch.tensor([1e9]), 0),
    lambda loss: torch.equal(loss, loss),
    lambda loss: loss.unique(),
]


@pytest.mark.parametrize("reads", [READS, *(pytest.param([read], marks=pytest.mark.slow) for read in READS)])
def test_each_way_to_wait_is_counted(ticks, reads):
    class Reads(SignHunt):
        def tell(self, state, points, answer):
            super().tell(state, points, answer)
            for read in reads:
                read(state["score"])

    _, waits = ordinary(ticks, made(Reads))
    assert max(waits) == WAITS + len(reads)


@pytest.mark.parametrize(("kind", "budget"), [(Square, 30), (NES, 30), (SignHunt, 110)])
def test_work_that_only_a_gpu_does_changes_nothing(kind, budget):
    victim = small_network()
    x, y = labelled(victim, (3, 4, 4), count=4)  # so few values that SignHunter starts again
    usual = Run(victim, made(kind), x, y, budget=budget).records
    with free_reads.off():
        assert Run(victim, made(kind), x, y, budget=budget).records == usual


def test_skipped_candidates_are_counted_alike_on_a_gpu():
    victim = small_network()
    x, y = labelled(victim, (3, 4, 4), count=4)

    def records():
        with LogitNoise(sigma=0.05).on(victim):
            criterion = SequentialCriterion(final_evaluations=40)
            return Run(victim, made(Square), x, y, budget=30, deterministic=False, criterion=criterion).records

    usual = records()
    assert sum(record.candidates - record.voted_candidates for record in usual) > 0
    with free_reads.off():
        assert records() == usual

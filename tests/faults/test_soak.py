"""Very many images through one engine: its memory stays flat, its ledger exact, its forward passes full."""

import resource

import pytest
import torch
from harness import engine_of, images
from torch import nn

from rfdlight.attacks import NES, RandomNoise, Square
from rfdlight.engine import Oracle, RunObserver, criterion_named

pytestmark = pytest.mark.faults

IMAGES, FIRST, BATCH, BUDGET = 200_000, 20_000, 128, 4
"""How many there are, and after how many the memory is looked at for the first time."""

GROWTH = 16
"""MB that the process may grow by between the first look and the end: a record kept by mistake would be 200 of them."""


class Trivial(nn.Module):
    """Two classes by the mean of an image; noise on top, where it is asked for."""

    def __init__(self, sigma):
        super().__init__()
        self.sigma = sigma

    def forward(self, x):
        level = x.flatten(1).mean(1) - 0.5
        return torch.stack([level, -level], 1) + self.sigma * torch.randn(len(x), 2)


def peak():
    """The most memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize(
    ("attack", "sigma"), [(RandomNoise(eps=0.1), 0.0), (Square(eps=0.1), 0.01), (NES(eps=0.1, pairs=1), 0.0)]
)
def test_200_000_images(attack, sigma):
    x = images(BATCH, (1, 4, 4))
    y = (x.flatten(1).mean(1) < 0.5).long()
    finished = {"images": 0, "billed": 0, "rows": 0}
    passes = []

    class Count(RunObserver):
        def on_record(self, record):
            finished["images"] += 1
            finished["billed"] += record.billed
            finished["rows"] += record.attack + record.success_check + record.criterion

    oracle = Oracle(Trivial(sigma), BATCH)
    criterion = criterion_named("sequential", 4)
    options = {"budget": BUDGET, "pool_size": 2 * BATCH, "deterministic": sigma == 0}
    engine = engine_of(oracle, attack, Count(), criterion, **options)
    after_first = 0.0
    for start in range(0, IMAGES, BATCH):
        rows = min(BATCH, IMAGES - start)
        before = engine.ledger.total["padding"]
        engine.submit(x[:rows], y[:rows], [str(start + row) for row in range(rows)])
        engine.run(low_watermark=2 * BATCH)
        passes.append(engine.ledger.total["padding"] - before)
        if start < FIRST <= start + rows:
            after_first = peak()
    starved = sum(passes)
    engine.run()
    engine.ledger.check(oracle.forwarded)
    assert finished["images"] == IMAGES
    assert finished["billed"] <= BUDGET * IMAGES
    assert finished["rows"] + engine.ledger.total["padding"] == oracle.forwarded
    assert starved == 0, "a forward pass was padded while images were waiting"
    assert peak() - after_first < GROWTH

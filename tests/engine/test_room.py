"""When an engine asks for more images."""

import pytest
import torch
from harness import engine_of, images, others_slow
from torch import nn

from rfdlight.attacks import RandomNoise
from rfdlight.engine import Oracle

BATCH, BUDGET = 4, 6


class Right(nn.Module):
    def __init__(self, sigma=0.0):
        super().__init__()
        self.sigma = sigma

    def forward(self, x):
        return torch.tensor([[9.0, 0.0]]) + self.sigma * torch.randn(len(x), 2)


@pytest.fixture
def engine():
    """An engine with eight pool_size and passes of four images, none of which is ever broken."""
    return engine_of(Oracle(Right(), BATCH), RandomNoise(eps=0.1), budget=BUDGET, pool_size=2 * BATCH)


def submit(engine, count):
    x = images(count, (1, 2, 2))
    engine.submit(x, torch.zeros(count, dtype=torch.int64), [str(i) for i in range(count)])


def test_it_asks_as_soon_as_it_cannot_fill_a_pass(engine):
    submit(engine, 3)
    engine.run(low_watermark=2 * BATCH)
    assert engine.ledger.total["attack"] == 0
    submit(engine, 3)
    engine.run(low_watermark=2 * BATCH)
    # Two of the six images have one query more than the others, and have ended first.
    assert engine.ledger.total["padding"] == 0
    assert len(engine._pool) < BATCH


def test_it_asks_for_none_while_it_holds_as_many_as_it_is_to_hold(engine):
    submit(engine, 7)
    engine.run(low_watermark=2 * BATCH)
    assert len(engine._pool) == 3, "a pass less one image"
    engine.run(low_watermark=2)
    assert len(engine._pool) < 2
    engine.run()
    assert engine.ledger.total["attack"] == 7 * BUDGET


def test_it_holds_no_more_than_its_pool_size(engine):
    submit(engine, 20)
    engine.run(low_watermark=100)
    assert len(engine._pool) < 2 * BATCH


def test_images_that_keep_lockstep_begin_together(engine):
    engine._scheduler.lockstep = True
    submit(engine, 5)
    engine.run(low_watermark=6)
    assert engine.oracle.forwarded == 0
    submit(engine, 3)
    engine.run(low_watermark=6)
    assert 0 < len(engine._pool) < 6
    assert engine.ledger.total["padding"] == 0
    submit(engine, 2 * BATCH)
    engine.run(low_watermark=100)
    assert 0 < len(engine._pool) < 2 * BATCH, "it has no more pool_size"


@pytest.mark.parametrize("sigma", others_slow([0, 1], 0))
def test_images_that_keep_lockstep_end_together_and_leave_few_padded_passes(sigma):
    def padded(pool_size, lockstep):
        options = {"budget": 40, "pool_size": pool_size, "lockstep": lockstep, "deterministic": not sigma}
        engine = engine_of(Oracle(Right(sigma), BATCH), RandomNoise(eps=0.1), **options)
        for _ in range(7):
            submit(engine, 3)
            engine.run(low_watermark=pool_size)
        engine.run()
        return engine.ledger.total["padding"]

    # Of 21 images in passes of 4, one is left over; it falls behind by all of its queries, or by eight.
    assert padded(2 * BATCH, False) >= 3 * 40
    assert padded(21, True) < 4 * 10

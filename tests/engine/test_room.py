"""When an engine asks for more images."""

import pytest
import torch
from harness import images
from torch import nn

from rfdlight.attacks import RandomNoise
from rfdlight.engine import Engine, Oracle
from rfdlight.engine.judge import Judge

BATCH, BUDGET = 4, 6


class Right(nn.Module):
    def forward(self, x):
        return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)


@pytest.fixture
def engine():
    """An engine with eight slots and passes of four images, none of which is ever broken."""
    oracle = Oracle(Right(), BATCH)
    return Engine(
        oracle, RandomNoise(eps=0.1), classes=2, budget=BUDGET, slots=2 * BATCH, judge=Judge(), deterministic=True,
        on_record=lambda record: None,
    )  # fmt: skip


def submit(engine, count):
    x = images(count, (1, 2, 2))
    engine.submit(x, torch.zeros(count, dtype=torch.int64), [str(i) for i in range(count)])


def test_it_asks_as_soon_as_it_cannot_fill_a_pass(engine):
    submit(engine, 3)
    engine.run(until_room=True)
    assert engine.ledger.total["attack"] == 0
    submit(engine, 3)
    engine.run(until_room=True)
    # Two of the six images have one query more than the others, and have ended first.
    assert engine.ledger.total["padding"] == 0
    assert len(engine._pool) < BATCH


def test_it_asks_for_none_while_it_holds_as_many_as_it_is_to_hold(engine):
    submit(engine, 7)
    engine.run(until_room=True)
    assert len(engine._pool) == 3, "a pass less one image"
    engine.run(until_room=True, hold=2)
    assert len(engine._pool) < 2
    engine.run()
    assert engine.ledger.total["attack"] == 7 * BUDGET


def test_it_holds_no_more_than_its_slots(engine):
    submit(engine, 20)
    engine.run(until_room=True, hold=100)
    assert len(engine._pool) < 2 * BATCH

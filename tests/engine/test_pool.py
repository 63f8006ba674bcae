"""The pool keeps every row with its image, and the scheduler serves all of them."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rfdlight.engine.pool import Pool, columns_of
from rfdlight.engine.scheduler import Scheduler


@dataclass
class Own:
    wide: torch.Tensor
    flag: torch.Tensor


@dataclass
class State:
    shared: dict[str, torch.Tensor]
    own: Own


def state(ids):
    """Three columns of different form that say which image they belong to."""
    key = torch.tensor(ids, dtype=torch.int64)
    return State({"key": key}, Own((key[:, None, None] + torch.zeros(1, 2, 3)).float(), key % 2 == 1))


def check(pool, pool_size):
    ids = torch.tensor([int(name) for name in pool.ids], dtype=torch.int64)
    assert len(pool) == len(ids)
    assert pool.free == pool_size - len(ids)
    for name, expected in columns_of(state(ids.tolist())).items():
        column = columns_of(pool.images)[name]
        assert torch.equal(column[pool.occupied], expected)
        assert column.dtype == expected.dtype
        assert column.shape == (pool_size, *expected.shape[1:])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=40))
def test_every_row_stays_with_its_image_whatever_comes_and_goes(pool_size, moves):
    pool, fresh, held = Pool(pool_size), 0, set()
    for admits, number in moves:
        if admits or not len(pool):
            count = min(pool.free, number + 1)
            if count:
                ids = list(range(fresh, fresh + count))
                pool.admit([str(i) for i in ids], state(ids))
                held |= set(ids)
                fresh += count
        else:
            row = number % len(pool)
            held.remove(int(pool.ids[row]))
            pool.release(row)
        if fresh:
            check(pool, pool_size)
        assert {int(name) for name in pool.ids} == held


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 19), min_size=1), st.integers(1, 8), st.integers(0, 25))
def test_ready_rows_take_turns(ready, most, start):
    scheduler = Scheduler(lockstep=False)
    scheduler._next = start
    rows = np.array(sorted(ready))
    served = torch.zeros(20, dtype=torch.int64)
    rounds = 3 * len(ready)
    for _ in range(rounds):
        chosen = scheduler.next_rows(rows, most, None)
        picked = torch.from_numpy(np.arange(20)[chosen])
        assert len(picked) == min(most, len(ready))
        assert len(picked.unique()) == len(picked)
        assert set(picked.tolist()) <= ready
        if isinstance(chosen, slice):
            assert picked.tolist() == sorted(picked.tolist())
        served[picked] += 1
    counts = served[rows]
    # The same number of turns for all, but for the round that is under way.
    assert counts.max() - counts.min() <= 1
    assert counts.sum() == rounds * min(most, len(ready))


def test_neighbouring_rows_come_as_a_view():
    scheduler = Scheduler(lockstep=False)
    assert scheduler.next_rows(np.array([2, 3, 4]), 8, None) == slice(2, 5)
    assert scheduler.next_rows(np.arange(6), 6, None) == slice(0, 6)
    assert scheduler.next_rows(np.array([1, 3]), 8, None).tolist() == [1, 3]

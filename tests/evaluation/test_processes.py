"""What the processes of a run tell each other, here threads over one store."""

import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from rfdlight.errors import UserError
from rfdlight.evaluation import processes as module
from rfdlight.evaluation.processes import Processes, ReportedByLeader


@pytest.fixture
def team(monkeypatch):
    """Make the processes of a run of some size."""

    def make(size, store=None):
        shared = store or dist.HashStore()
        monkeypatch.setattr(module, "_get_default_store", lambda: shared)
        monkeypatch.setattr(module, "_runs", itertools.repeat(0))
        monkeypatch.setattr(module, "_BEAT", 0.0)
        monkeypatch.setattr(module, "_PAUSE", 0.001)
        return [Processes(rank, size) for rank in range(size)]

    return make


LIMIT = 600
"""Seconds after which a thread that still waits counts as one that waits for ever."""


def at_once(functions):
    """Run functions in threads of their own; return what they return or raise."""

    def caught(function):
        try:
            return function()
        except UserError as error:
            return error

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(caught, functions))


@pytest.mark.parametrize(("size", "total", "most"), [(1, 10, 4), (2, 1000, 32), (3, 7, 32), (4, 1, 8), (5, 0, 8)])
def test_everything_is_dealt_once(team, size, total, most):
    dealt = at_once([lambda process=process: list(process.chunks(total, most)) for process in team(size)])
    chunks = [chunk for own in dealt for chunk in own]
    assert sorted(position for chunk in chunks for position in chunk) == list(range(total))
    assert all(1 <= len(chunk) <= most for chunk in chunks)


def test_one_process_gets_full_chunks_and_several_get_ever_smaller_ones(team):
    (alone,) = team(1)
    assert [len(chunk) for chunk in alone.chunks(100, 32)] == [32, 32, 32, 4]
    first, second = team(2)
    turns = zip(first.chunks(100, 32), second.chunks(100, 32), strict=False)
    sizes = [len(chunk) for turn in turns for chunk in turn]
    assert sizes[0] == 25, "a quarter of what is left"
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-4:] == [1, 1, 1, 1]


def test_a_chunk_is_drawn_when_it_is_asked_for(team):
    first, second = team(2)
    mine = first.chunks(8, 2)
    next(mine)
    assert first.left(8) == second.left(8) == 6


def test_a_run_that_stops_deals_no_more(team):
    (alone,) = team(1)
    chunks = alone.chunks(100, 10)
    next(chunks)
    alone.stop()
    assert list(chunks) == []
    assert alone.left(100) == 90


def test_nobody_goes_on_before_all_agree(team, monkeypatch):
    first, second, third = team(3)
    changed, looks, gone_on = threading.Condition(), Counter(), Counter()

    def note(what):
        with changed:
            what[threading.get_ident()] += 1
            changed.notify_all()

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda _: note(looks)))

    def come(process):
        process.barrier()
        note(gone_on)

    def come_when_both_wait():
        with changed:
            assert changed.wait_for(lambda: gone_on or (len(looks) == 2 and min(looks.values()) >= 3), LIMIT)
            early = len(gone_on)
        third.barrier()
        return early

    assert at_once([lambda: come(first), lambda: come(second), come_when_both_wait])[2] == 0
    assert len(gone_on) == 2


def test_what_one_process_fails_by_is_said_by_process_0_alone(team):
    first, second, third = team(3)

    def fail():
        second.report_failure(UserError("no weights at x"))

    said = at_once([first.barrier, fail])
    assert str(said[0]) == "process 1: no weights at x"
    first.report_failure(said[0])
    with pytest.raises(ReportedByLeader):
        third.wait_for("run")


def test_a_stop_anywhere_reaches_all(team):
    first, second, third = team(3)
    for process in (first, second, third):
        process.poll(lambda: [0])
    assert not first.stopping
    second.stop()
    for process in (second, first, third):
        process.poll(lambda: [0])
    assert first.stopping
    assert third.stopping


def test_process_0_sees_how_far_all_are_together(team):
    first, second, third = team(3)
    second.poll(lambda: [2, 20])
    first.poll(lambda: [1, 10])
    assert first.total([1, 10]) == [3, 30]
    third.poll(lambda: [4, 40])
    second.poll(lambda: [3, 30])
    first.poll(lambda: [1, 10])
    assert first.total([1, 10]) == [8, 80]
    second.poll(lambda: [5, 50])
    assert second.total([5, 50]) == [5, 50]


def test_a_process_looks_no_more_than_once_a_second(team, monkeypatch):
    first, second = team(2)
    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(module, "_BEAT", 1.0)
    first.poll(lambda: [0])
    second.stop()
    second.poll(lambda: [0])
    now[0] = 100.9
    first.poll(lambda: [0])
    assert not first.stopping
    now[0] = 101.0
    first.poll(lambda: [0])
    assert first.stopping


def test_process_0_leaves_last(team):
    first, *others = team(3)
    left = []

    def leave_one():
        process = others.pop(0)
        process.leave()
        left.append(process.rank)

    first.leave(waiting=leave_one)
    assert left == [1, 2]


def test_process_0_hears_while_it_waits_that_another_one_failed(team):
    first, second = team(2)

    def fail_elsewhere():
        second.report_failure(UserError("the disk is full"))
        second.leave()
        first.poll(lambda: [0])

    with pytest.raises(UserError, match=r"^process 1: the disk is full$"):
        first.leave(waiting=fail_elsewhere)


def test_a_stopped_run_does_not_wait_for_ever_for_a_process_that_is_gone(team, monkeypatch):
    monkeypatch.setattr(module, "_GRACE", 0.05)
    first, _ = team(2)
    first.stop()
    thread = threading.Thread(target=first.leave, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()


class GoneStore(dist.Store):
    """A store whose server is gone."""

    def check(self, *words):
        raise dist.DistNetworkError("connection reset")

    set = get = add = check


def test_a_process_whose_store_is_gone_stops_with_what_it_has(team, monkeypatch):
    _, second = team(2)
    monkeypatch.setattr(second, "_store", GoneStore())
    second.poll(lambda: [0])
    assert (second.stopping, second.lost) == (True, True)
    second.leave()
    with pytest.raises(ReportedByLeader):
        second.wait_for("run")


def test_a_process_whose_store_is_gone_draws_nothing(team, monkeypatch):
    _, second = team(2)
    monkeypatch.setattr(second, "_store", GoneStore())
    assert list(second.chunks(10, 2)) == []
    assert second.lost


def test_process_0_does_not_go_on_without_its_store(team, monkeypatch):
    first, _ = team(2)
    monkeypatch.setattr(first, "_store", GoneStore())
    with pytest.raises(dist.DistNetworkError):
        first.poll(lambda: [0])


def test_runs_one_after_the_other_share_nothing(team, monkeypatch):
    first, _ = team(2)
    list(first.chunks(10, 5))
    monkeypatch.setattr(module, "_runs", itertools.repeat(1))
    assert Processes(0, 2).left(10) == 10

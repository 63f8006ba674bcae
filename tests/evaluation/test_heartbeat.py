"""The heartbeat of a run directory: it follows the attack, and never matters to the run."""

import itertools
import math
import os
from types import SimpleNamespace

import pytest
from harness import centred_network, images, labelled

import rfdlight as rfd
from rfdlight.evaluation import interface
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.evaluation.interface import Heartbeat, Tally
from rfdlight.records import journal, progress
from rfdlight.records.run_directory import refuse_links

SETTINGS = {"attack": "square", "eps": 0.02, "budget": 40, "batch_size": 4, "sanity_checks": False}


@pytest.fixture
def attack(tmp_path):
    """Attack eight images of a small network, with a directory."""
    network = centred_network()
    pair = labelled(network, count=8, seed=0)

    def run(name="run", **options):
        return rfd.evaluate(network, pair, **SETTINGS, out=tmp_path / name, **options)

    return run


@pytest.fixture
def beats(monkeypatch):
    """Every heartbeat that is written."""
    written, write = [], progress.write

    def listed(run, beat):
        write(run, beat)
        assert progress.read(run) == beat
        written.append(beat)

    monkeypatch.setattr(progress, "write", listed)
    return written


def test_the_heartbeats_follow_the_attack_to_its_end(attack, beats, monkeypatch):
    monkeypatch.setattr(interface, "_BEAT", 0.0)
    run = attack()
    assert (beats[0].done, beats[0].queries, beats[0].robust_so_far) == (0, 0, None)
    assert len({beat.done for beat in beats}) > 2
    for before, after in itertools.pairwise(beats):
        assert (before.done, before.queries) <= (after.done, after.queries)
        assert before.queries_left >= after.queries_left
        assert (before.time, before.seconds) <= (after.time, after.seconds)
        assert before.queries + before.queries_left <= 8 * 40
    last = beats[-1]
    assert (last.images, last.budget, last.done, last.queries_left) == (8, 40, 8, 0)
    assert last.robust_so_far == run.robust_accuracy.value
    assert last.queries == run.facts.totals.attacker


def test_a_short_run_writes_its_first_heartbeat_and_its_last(attack, beats, monkeypatch):
    monkeypatch.setattr(interface, "_BEAT", math.inf)
    attack()
    assert [beat.done for beat in beats] == [0, 8]


def test_a_heartbeat_is_due_two_seconds_after_the_last(tmp_path, monkeypatch, beats):
    now = [100.0]
    monkeypatch.setattr(interface, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: 5.0))
    heartbeat = Heartbeat(tmp_path, 30, 100)
    (tmp_path / "journal").mkdir()
    assert heartbeat.due
    now[0] = 104.0
    heartbeat.update(Tally(done=10, robust=5, begun=10, holding=10, queries=900, settled=500))
    assert not heartbeat.due
    now[0] = 105.9
    assert not heartbeat.due
    now[0] = 106.0
    assert heartbeat.due
    assert beats == [
        progress.Progress(
            time=5.0, images=30, budget=100, done=10, robust_so_far=0.75, queries=900, seconds=4.0, queries_left=1600
        )
    ]


def test_a_run_without_room_for_a_heartbeat_is_the_same_run(attack, tmp_path, monkeypatch):
    monkeypatch.setattr(interface, "_BEAT", 0.0)
    whole = attack()
    (tmp_path / "other/journal/progress.json/inside").mkdir(parents=True)  # no file can take its place
    other = attack("other")
    assert other.records == whole.records
    assert (tmp_path / "other/records.jsonl").read_bytes() == (tmp_path / "run/records.jsonl").read_bytes()
    assert progress.read(tmp_path / "other") is None
    assert not [*tmp_path.rglob("partial-*")]


def test_a_full_disk_keeps_the_last_heartbeat(tmp_path, monkeypatch):
    heartbeat = Heartbeat(tmp_path, 30, 100)
    heartbeat.update(Tally())  # the folder is missing
    (tmp_path / "journal").mkdir()
    heartbeat.update(Tally(done=1))
    with monkeypatch.context() as patch:
        patch.setattr(progress, "write_file", full)
        heartbeat.update(Tally(done=2))
    assert progress.read(tmp_path).done == 1


def full(path, content, durable):
    raise rfd.UserError(f"cannot write {path}: No space left on device")


def test_a_heartbeat_waits_for_no_disk(tmp_path, monkeypatch):
    (tmp_path / "journal").mkdir()
    monkeypatch.setattr(os, "fsync", lambda file: pytest.fail("it waits for the disk"))
    Heartbeat(tmp_path, 30, 100).update(Tally())


def test_a_resumed_run_counts_the_images_of_earlier_attempts_and_its_own_queries(attack, beats, tmp_path, monkeypatch):
    write = Evaluation.on_record

    def write_and_stop(self, record):
        write(self, record)
        self.processes.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "on_record", write_and_stop)
        cut = attack()
    stopped = beats[-1]
    assert 0 < stopped.done == len(cut.records) < 8
    assert stopped.robust_so_far == cut.summary.so_far.value
    (tmp_path / "run/journal/progress.json").write_text("damaged")
    beats.clear()
    run = attack(resume=True)
    assert (beats[0].done, beats[0].queries) == (stopped.done, 0)
    assert (beats[-1].done, beats[-1].robust_so_far) == (8, run.robust_accuracy.value)
    assert beats[-1].queries + stopped.queries == run.facts.totals.attacker
    assert run.facts.damaged_lines == 0
    assert journal.read_past(tmp_path / "run").records == [*run.records]
    refuse_links(tmp_path / "run")


def test_a_run_in_memory_and_its_sanity_checks_write_none(beats, tmp_path):
    network = centred_network()
    x = images(6)
    pair = x, network(x).argmax(1)
    rfd.evaluate(network, pair, **SETTINGS | {"sanity_checks": True})
    assert beats == []
    rfd.evaluate(network, pair, **SETTINGS | {"sanity_checks": True}, out=tmp_path / "run")
    assert {beat.images for beat in beats} == {6}
    assert len([*tmp_path.rglob("progress.json")]) == 1

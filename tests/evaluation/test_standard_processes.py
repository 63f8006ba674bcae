"""The standard evaluation in two processes, here threads over one store, each with a victim of its own."""

import itertools
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from harness import centred_network, images, labelled, others_slow
from torch import nn

import rfdlight as rfd
from rfdlight.core.row_counter import RowCounter
from rfdlight.evaluation import processes as module
from rfdlight.evaluation.config import EvaluationConfig
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.evaluation.processes import Processes
from rfdlight.evaluation.standard import StandardAttack, run_standard, standard
from rfdlight.records import progress
from rfdlight.reporting import plots

QUICK = {"budget": 12, "batch_size": 4}
LIMIT = 120
"""Seconds after which a thread that still waits counts as one that waits for ever."""


@pytest.fixture
def team(monkeypatch, tmp_path):
    """Run a standard evaluation in two processes with these victims; return the result and the rows of each.

    In every stage each process draws its first images before either attacks; then `team.drawn(process)` is called.
    """
    monkeypatch.setattr(plots, "draw_curves", lambda *_, **__: None)
    monkeypatch.setattr(plots, "save", lambda *_: None)
    monkeypatch.setattr(module, "_runs", itertools.repeat(0))
    monkeypatch.setattr(module, "_BEAT", 0.0)
    monkeypatch.setattr(module, "_PAUSE", 0.001)
    met, returned = threading.Barrier(2), threading.Event()
    chunks, agreed = Processes.chunks, Processes.agreed

    def both_draw(self, total, most):
        drawn = chunks(self, total, most)
        first = next(drawn, None)
        if self.size == 2:
            met.wait(LIMIT)
            run.drawn(self)
        if first is not None:
            yield first
        yield from drawn

    def hear_late(self, name, value):
        if name == "void" and not self.leads:
            assert not returned.wait(0.3), "process 0 has left, and its store with it"
        return agreed(self, name, value)

    monkeypatch.setattr(Processes, "chunks", both_draw)
    monkeypatch.setattr(Processes, "agreed", hear_late)

    def run(victims, pair, eps, resume=False):
        store = dist.HashStore()
        monkeypatch.setattr(module, "_get_default_store", lambda: store)
        returned.clear()

        def one(process, victim):
            attack = StandardAttack(eps, access="decision")
            config, place = EvaluationConfig(**QUICK), {"folder": tmp_path, "resume": resume, "progress": False}
            try:
                with RowCounter(victim) as counter:
                    found = run_standard(victim, pair, attack, config, process, **place)
            except BaseException as error:
                process.report_failure(error)
                met.abort()
                returned.set()
                raise
            left_alone = not process.leads and not returned.wait(LIMIT)
            returned.set()
            if left_alone:
                process.report_failure(rfd.UserError("process 0 goes on alone"))
            return found, counter.rows

        with ThreadPoolExecutor(2) as pool:
            (found, first), (nothing, second) = pool.map(one, [Processes(rank, 2) for rank in range(2)], victims)
        assert nothing is None
        return found, first + second

    run.drawn = lambda process: None
    return run


@pytest.fixture
def networks():
    return [centred_network() for _ in range(3)]


@pytest.fixture
def pair(networks):
    x, y = labelled(networks[0], count=8, seed=0)
    y[0] = (y[0] + 1) % 5
    return x, y


def attacked(folder):
    """The ids of the images that each process attacked in a stage."""
    files = sorted((folder / "journal").glob("*.jsonl"))
    entries = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [[entry["record"]["id"] for entry in own if "record" in entry] for own in entries]


def test_two_processes_share_the_images_of_each_stage_and_write_the_records_of_one(
    team, networks, pair, tmp_path, monkeypatch
):
    write, writers = progress.write, set()
    monkeypatch.setattr(progress, "write", lambda *told: (writers.add(threading.get_ident()), write(*told)))
    whole = standard(networks[2], pair, eps=0.02, **QUICK, access="decision")
    run, rows = team(networks[:2], pair, 0.02)
    assert len(writers) == 1, "process 0 alone writes the heartbeat"
    assert len(run.stages) == 2
    assert len(run.stages[1].records) < len(run.stages[0].records)
    assert [stage.records for stage in run.stages] == [stage.records for stage in whole.stages]
    assert run.images == whole.images
    assert rfd.load_standard(tmp_path).images == whole.images
    assert run.rows.total == run.summary.ledger["rows"] == rows
    for stage in run.stages:
        parts = attacked(stage.folder)
        assert len(parts) == 2
        assert all(parts), "both have attacked"
        assert Counter(itertools.chain(*parts)) == Counter(stage.ids)
        assert stage.facts.processes == 2
        assert progress.read(stage.folder).done == progress.read(stage.folder).images == len(stage.records)


def test_a_stop_in_the_second_stage_reaches_both_and_a_resumed_run_has_the_same_records(
    team, networks, pair, tmp_path, monkeypatch
):
    whole = standard(networks[2], pair, eps=0.02, **QUICK, access="decision")
    recorded, write = threading.Event(), Evaluation.on_record

    def on_record(self, record):
        write(self, record)
        if self.writer.folder == tmp_path / "2-rays":
            recorded.set()

    def stop_in_the_second_stage(process):
        if process.rank == 1 and (tmp_path / "1-bernoulli_decision/summary.json").exists():
            assert recorded.wait(LIMIT)
            process.stop()

    monkeypatch.setattr(Evaluation, "on_record", on_record)
    team.drawn = stop_in_the_second_stage
    run, before = team(networks[:2], pair, 0.02)
    assert run is None
    assert not json.loads((tmp_path / "2-rays/summary.json").read_text())["run"]["complete"]
    with pytest.raises(rfd.UserError, match="images left; resume it"):
        rfd.load_standard(tmp_path)
    team.drawn = lambda process: None
    run, rows = team(networks[:2], pair, 0.02, resume=True)
    assert [stage.records for stage in run.stages] == [stage.records for stage in whole.stages]
    assert run.images == whole.images
    assert [stage.facts.attempts for stage in run.stages] == [1, 2]
    assert run.rows.total == run.summary.ledger["rows"] == before + rows


class Noisy(nn.Module):
    """Predicts class 0, with noise once a folder exists."""

    def __init__(self, begun=None):
        super().__init__()
        self.begun = begun

    def forward(self, x):
        margin = 1.0 + 0 * x.flatten(1).sum(1)
        if self.begun is not None and self.begun.exists():
            margin = margin + 0.1 * torch.randn(len(x))
        return torch.stack([margin, torch.zeros_like(margin)], 1)


@pytest.mark.parametrize("begun", others_slow(["", "2-rays"], 1))
def test_where_one_process_finds_the_victim_random_both_attack_as_that_of_a_random_one(begun, team, tmp_path):
    pair = images(4, (1, 4, 4)), torch.zeros(4, dtype=torch.int64)
    run, rows = team([Noisy(), Noisy(tmp_path / begun)], pair, 0.1)
    assert [stage.facts.deterministic for stage in run.void] == ([True, False] if begun else [])
    assert len(run.stages) == 2
    assert not any(stage.facts.deterministic for stage in run.stages)
    assert all(record.final_evaluations > 1 for stage in run.stages for record in stage.records)
    assert [image.verdict for image in run.images] == ["robust"] * 4
    assert run.rows.total == run.summary.ledger["rows"] == rows

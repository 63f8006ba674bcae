"""The batch size of a long run, chosen by a timing with made-up rates: files, resume, rows, processes and stages."""

import itertools
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
import yaml
from harness import images
from torch import nn

import rfdlight as rfd
from rfdlight.attacks import Square
from rfdlight.core.row_counter import RowCounter
from rfdlight.data.given import GivenImages, images_from
from rfdlight.engine import pass_timing
from rfdlight.engine.pass_timing import PassTimer
from rfdlight.errors import ResumeError, UserError
from rfdlight.evaluation import processes
from rfdlight.evaluation.conclusion import conclude
from rfdlight.evaluation.config import EvaluationConfig, Subject
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.evaluation.processes import Processes
from rfdlight.evaluation.run_writer import RunWriter
from rfdlight.evaluation.standard import standard

LONG = {"attack": "square", "eps": 0.2, "budget": 10_000, "sanity_checks": False, "compile": False}
"""So many queries to come that passes are timed."""


class Counting(nn.Module):
    """A linear victim that counts its rows."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(48, 3, bias=False)
        self.linear.weight.data = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
        self.rows = 0

    def forward(self, x):
        self.rows += len(x)
        return self.linear(x.flatten(1) - 0.5)


def wrong(count=40):
    """Images with wrong labels, which need no query."""
    x = images(count, (3, 4, 4))
    return x, (Counting()(x).argmax(1) + 1) % 3


@pytest.fixture
def rates(monkeypatch):
    """Rows per second by rows and format; the passes are made, and the speed of the machine is not used."""
    table, tried = {}, []
    measure = PassTimer.__call__

    def rate(timer, rows, channels_last):
        tried.append((rows, channels_last))
        assert measure(timer, rows, channels_last) > 0
        return table.get((rows, channels_last), 1.0)

    monkeypatch.setattr(PassTimer, "__call__", rate)
    table["tried"] = tried
    return table


def test_every_file_and_the_banner_have_the_choice_and_every_row_is_counted(rates, tmp_path, caplog):
    rates.update({(20, True): 100.0, (20, False): 200.0, (10, False): 300.0})
    victim = Counting()
    with caplog.at_level(logging.INFO, "rfdlight"):
        run = rfd.evaluate(victim, wrong(), **LONG, out=tmp_path)
    assert (run.facts.batch_size, run.facts.channels_last) == (10, False)
    for file in ("summary.json", "fingerprint.json"):
        found = json.loads((tmp_path / file).read_text())
        found = found.get("run", found)
        assert (found["batch_size"], found["channels_last"]) == (10, False)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["evaluate"]["batch_size"] == 10
    assert run.facts.forwarded == run.facts.totals.total == victim.rows
    assert run.is_consistent
    [line] = [line for line in caplog.text.splitlines() if line.startswith("passes ")]
    assert "batch size 10 in contiguous memory chosen in " in line
    assert "(20: 100 rows/s, 20 contiguous: 200 rows/s, 10 contiguous: 300 rows/s)" in line


def test_a_resumed_run_keeps_the_choice_and_times_nothing(rates, tmp_path):
    rates[10, True] = 9.0
    assert rfd.evaluate(Counting(), wrong(), **LONG, out=tmp_path).facts.batch_size == 10
    rates["tried"].clear()
    rates[10, True], rates[20, False] = 1.0, 9.0
    again = rfd.evaluate(Counting(), wrong(), **LONG, out=tmp_path, resume=True)
    assert (again.facts.batch_size, again.facts.channels_last, rates["tried"]) == (10, True, [])
    for other in ({"batch_size": 20}, {"channels_last": False}):
        with pytest.raises(ResumeError, match=next(iter(other))):
            rfd.evaluate(Counting(), wrong(), **LONG, **other, out=tmp_path, resume=True)


def test_few_queries_and_a_given_size_are_not_timed(rates):
    for options in ({"budget": 100}, {"batch_size": 5}):
        run = rfd.evaluate(Counting(), wrong(), **LONG | options)
        assert run.facts.batch_size == options.get("batch_size", 20)
    assert rates["tried"] == []


@pytest.mark.parametrize("bound", [{"memory": 1e-4}, {"pool_size": 150}])
def test_the_pool_of_two_passes_fits_into_memory(rates, bound):
    rates.update({(rows, last): float(rows) for rows in (32, 64, 128, 256) for last in (True, False)})
    run = rfd.evaluate(Counting(), wrong(260), **LONG | {"budget": 1000}, **bound)
    assert 64 <= run.facts.batch_size <= 75
    assert rfd.evaluate(Counting(), wrong(260), **LONG | {"budget": 1000}).facts.batch_size == 128


def test_process_0_chooses_for_all(rates, tmp_path, monkeypatch):
    store = dist.HashStore()
    monkeypatch.setattr(processes, "_get_default_store", lambda: store)
    monkeypatch.setattr(processes, "_runs", itertools.repeat(0))
    monkeypatch.setattr(processes, "_PAUSE", 0.001)
    rates[5, True] = 9.0  # half of the default

    def attack(process):
        victim = Counting()
        subject = Subject(victim, "", GivenImages(images_from(wrong()), 3), Square(eps=0.2))
        writer = RunWriter(tmp_path / "run", False, process)
        config = EvaluationConfig(budget=20_000, sanity_checks=False)
        evaluation = Evaluation(subject, config, writer=writer, processes=process)
        with RowCounter(victim):
            evaluation.run(torch.device("cpu"))
        run = conclude(evaluation) if process.leads else None
        writer.close()
        return evaluation.passes, victim.rows, run

    with ThreadPoolExecutor(2) as pool:
        (chosen, rows, run), (same, others, _) = pool.map(attack, [Processes(rank, 2) for rank in range(2)])
    assert chosen == same
    assert chosen.rows == 5, "the default is 10 here"
    assert rates["tried"].count((10, False)) == 1
    assert run.facts.forwarded == run.facts.totals.total == rows + others


def test_a_standard_evaluation_chooses_once_also_where_a_later_stage_is_resumed(rates, tmp_path, monkeypatch):
    monkeypatch.setattr(pass_timing, "_SHARE", 10.0)  # so that few queries are worth a timing
    x, y = wrong(8)
    settings = {"eps": 1e-6, "budget": 12, "access": "decision", "compile": False, "out": tmp_path}
    rates[2, True] = 9.0
    run = standard(Counting(), (x, (y - 1) % 3), **settings)
    assert [stage.facts.batch_size for stage in run.stages] == [2, 2]
    assert rates["tried"].count((4, False)) == 1
    shutil.rmtree(run.stages[1].folder)
    rates["tried"].clear()
    rates[4, False] = 99.0
    again = standard(Counting(), (x, (y - 1) % 3), **settings, resume=True)
    assert [(stage.facts.batch_size, stage.facts.channels_last) for stage in again.stages] == [(2, True), (2, True)]
    assert (rates["tried"], again.images) == ([], run.images)


def test_another_word_or_number_is_one_line():
    wrong = {"batch_size": [None, 0, "few"], "channels_last": ["few"], "precision": ["float16"]}
    wrong |= {"query_counting": ["few"], "compile": ["few"]}
    for name, value in ((name, value) for name, values in wrong.items() for value in values):
        with pytest.raises(UserError, match=f"^model.{name}"):
            EvaluationConfig(**{name: value})

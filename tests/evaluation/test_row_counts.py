"""A run counts every row that its victim answered, from the first one on."""

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from harness import images, others_slow
from torch import nn

import rfdlight as rfd
from rfdlight.attacks import Square
from rfdlight.cli import main as cli
from rfdlight.core.row_counter import RowCounter
from rfdlight.data.given import GivenImages, images_from
from rfdlight.evaluation import processes
from rfdlight.evaluation.conclusion import conclude
from rfdlight.evaluation.config import EvaluationConfig, Subject
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.evaluation.processes import Processes
from rfdlight.evaluation.run_writer import RunWriter
from rfdlight.evaluation.sanity_checks import SanityChecks
from rfdlight.records import journal
from rfdlight.victims.answers import answer_in_logits

QUICK = {"eps": 0.2, "budget": 12, "final_evaluations": 40}


class Counting(nn.Module):
    """A linear victim that counts its rows, with noise from some row on."""

    def __init__(self, noise=0.0, late=0):
        super().__init__()
        self.linear = nn.Linear(48, 3, bias=False)
        self.linear.weight.data = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
        self.noise, self.late, self.rows = noise, late, 0

    def forward(self, x):
        logits = self.linear(x.flatten(1) - 0.5)
        if self.rows >= self.late:
            logits = logits + self.noise * torch.randn_like(logits)
        self.rows += len(x)
        return logits


def pair(count=8):
    x = images(count, (3, 4, 4))
    return x, Counting()(x).argmax(1)


def check(run, rows):
    """Every row is in the ledger, and the hooks on the victim have seen every row."""
    assert run.facts.forwarded == run.summary.ledger["rows"] == rows
    assert run.is_consistent


@pytest.mark.parametrize(
    ("attack", "noise", "late", "options"),
    others_slow(
        [
            ("square", 0.0, 0, {"sanity_checks": False}),
            ("square", 0.3, 0, {}),
            ("square", 0.3, 150, {"sanity_checks": False}),  # it turns out to be random, and the attack begins again
            ("rays", 0.0, 0, {"eot": 2, "pool_size": 3}),
            ("pgd", 0.0, 0, {}),
            ("signopt", 0.0, 0, {"targeted": True}),
            ("boundary", 0.3, 0, {"targeted": True, "sanity_checks": False}),
        ],
        2,
        3,
        4,
    ),
)
def test_the_sum_of_the_ledger_is_all_that_the_victim_answered(attack, noise, late, options):
    victim = Counting(noise, late)
    run = rfd.evaluate(victim, pair(), attack, batch_size=4, **QUICK, **options)
    check(run, victim.rows)
    assert run.facts.deterministic == (not noise)


def test_checks_are_what_the_victim_answers_before_the_attack():
    run = rfd.evaluate(Counting(), pair(), "square", batch_size=8, sanity_checks=False, **QUICK)
    # One image for the number of classes, two for the form of the answers, four passes of the probe, and the clean
    # accuracy on all images.
    assert run.facts.totals.checks == 1 + 2 + 4 * 8 + 8


def test_a_failing_victim_is_counted_as_far_as_it_answers():
    class Failing(Counting):
        def forward(self, x):
            if (x == bad).flatten(1).all(1).any():
                raise ValueError("not this one")
            return super().forward(x)

    x, y = pair()
    bad = x[5]
    victim = Failing()
    run = rfd.evaluate(victim, (x, y), "square", batch_size=4, **QUICK)
    assert len(run.facts.failed) == 1
    check(run, victim.rows)


def test_every_attempt_adds_its_rows(tmp_path, monkeypatch):
    victim, folder = Counting(), tmp_path / "run"

    def evaluate(**options):
        return rfd.evaluate(victim, pair(), "square", batch_size=4, pool_size=4, out=folder, **QUICK, **options)

    on_record = Evaluation.on_record

    def stop_at_the_third(self, record):
        on_record(self, record)
        if self._done == 3:
            self.processes.stop()

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "on_record", stop_at_the_third)
        stopped = evaluate()
    assert not stopped.facts.complete
    check(stopped, victim.rows)
    # The second attempt ends the run, the third finds it ended, and each of them makes the sanity checks.
    for attempts in (2, 3):
        before = victim.rows
        run = evaluate(resume=True)
        check(run, victim.rows)
        assert run.facts.complete
        assert (run.facts.attempts, run.facts.killed_attempts) == (attempts, 0)
        assert run.facts.sanity_checks.no_ball is not None
        assert victim.rows - before > 100, "the load check and the sanity checks"
    check(rfd.load_run(folder), victim.rows)


def test_the_rows_of_several_processes_add_up(tmp_path, monkeypatch):
    # Threads over one store, each with a victim of its own.
    store = dist.HashStore()
    monkeypatch.setattr(processes, "_get_default_store", lambda: store)
    monkeypatch.setattr(processes, "_runs", itertools.repeat(0))
    monkeypatch.setattr(processes, "_PAUSE", 0.001)

    def attack(process):
        victim = Counting()
        with RowCounter(victim) as counter:
            answer_in_logits(victim, "own", 3, (3, 4, 4))
        data = GivenImages(images_from(pair()), 3)
        subject = Subject(victim, "", data, Square(eps=0.2), checked_rows=counter.rows)
        config = EvaluationConfig(budget=20, final_evaluations=40, batch_size=4)
        writer = RunWriter(tmp_path / "run", False, process)
        evaluation = Evaluation(subject, config, writer=writer, processes=process)
        evaluation.run(torch.device("cpu"))
        run = conclude(evaluation) if process.leads else None
        writer.close()
        return victim.rows, run

    team = [Processes(rank, 2) for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        (first, run), (second, _) = pool.map(attack, team)
    assert min(first, second) > 2 + 4 * 4, "both have attacked"
    check(run, first + second)
    assert run.facts.sanity_checks.no_ball is not None


def test_sanity_checks_that_end_by_an_error_leave_their_rows(tmp_path, monkeypatch):
    victim = Counting()

    def interrupted(checks, sample, known):
        checks._attack(sample, checks.subject.attack)
        raise KeyboardInterrupt

    monkeypatch.setattr(SanityChecks, "_no_ball", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rfd.evaluate(victim, pair(), "square", batch_size=4, out=tmp_path / "run", **QUICK)
    assert journal.read_past(tmp_path / "run").facts["forwarded"] == victim.rows


OWN = """
import torch
from torch import nn

ROWS = 0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(3, 10)

    def forward(self, x):
        global ROWS
        ROWS += len(x)
        return self.mean(x.mean((2, 3)))


def net():
    torch.manual_seed(5)
    return Net()
"""
LINE = ["test", "--attack", "square", "--data.num_images", "7", "--model.victim", "own_counting.net", "--model.budget"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module of a user's own victim, which counts its rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("own_counting.py").write_text(OWN)
    yield lambda: sys.modules["own_counting"].ROWS
    sys.modules.pop("own_counting", None)


@pytest.mark.slow
def test_a_command_line_counts_every_row_of_each_attempt(own):
    assert cli.main([*LINE, "8", "--run", "run"]) == 0
    check(rfd.load_run("run"), own())
    assert cli.main(["test", "--resume", "run"]) == 0
    check(rfd.load_run("run"), own())


def test_a_load_before_several_processes_start_is_counted(own, monkeypatch):
    before_test = cli.RFDLightCLI.before_test

    def as_one_of_two(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(self.trainer), "world_size", 2)
            before_test(self)

    monkeypatch.setattr(cli.RFDLightCLI, "before_test", as_one_of_two)
    assert cli.main([*LINE, "3", "--model.sanity_checks", "false", "--run", "run"]) == 0
    check(rfd.load_run("run"), own())


def test_a_victim_by_name_is_counted_from_its_load_on(own):
    data = rfd.data.Digits(num_images=4)
    run = rfd.evaluate("own_counting.net", data, "square", batch_size=2, sanity_checks=False, **QUICK)
    check(run, own())

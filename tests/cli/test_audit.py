"""What a run finds when it checks itself, from the command line to the report."""

import json
import sys
from pathlib import Path

import pytest
import torch

from rfdlight.records.consistency_checks import CHECKS

FORGETFUL = """
from nearest_mean import NearestMean

class Forgetful(NearestMean):
    '''Gets less sure of itself after as many rows as a file says.'''

    rows = 0

    def forward(self, x):
        self.rows += len(x)
        return super().forward(x) * (0.9 if self.rows > int(open("rows").read()) else 1)
"""
LINE = "test --attack square --data digits --data.num_images 8 --model.batch_size 4 --model.budget 10 --run run"


@pytest.fixture(autouse=True)
def victims(nearest_mean, elsewhere):
    (elsewhere / "forgetful.py").write_text(FORGETFUL)
    torch.manual_seed(0)
    yield
    sys.modules.pop("forgetful", None)


def audited():
    return {
        finding["check"]: finding for finding in json.loads(Path("run/summary.json").read_text())["consistency_checks"]
    }


def test_a_sound_run_says_how_many_checks_it_passed(command):
    said = command(*LINE.split(), "--model.victim", "nearest_mean.NearestMean")
    assert said.status == 0
    # A victim by import path has no card.
    assert "consistency checks: 9 of 10 passed, 1 skipped\n  skipped: clean accuracy (" in said.out
    assert list(audited()) == list(CHECKS)
    assert [name for name, finding in audited().items() if finding["state"] == "skip"] == ["clean accuracy"]


def test_a_victim_that_changes_is_told_and_ends_with_status_1(command):
    line = [*LINE.split(), "--model.victim", "forgetful.Forgetful"]
    Path("rows").write_text("1000000")
    command(*line, "--run", "steady", "--model.sanity_checks", "false")
    attacked = json.loads(Path("steady/summary.json").read_text())["run"]["forwarded"]
    Path("rows").write_text(f"{attacked + 2}")
    said = command(*line)
    assert said.status == 1
    assert said.err.startswith("rfdlight: the run contradicts itself")
    assert audited()["eps 0"]["state"] == "fail"
    assert "  eps 0: the victim's answer to digits/test/" in said.out
    reported = command("report", "run", "--output", "out")
    assert reported.status == 0
    assert "run: WRONG: the consistency check randomness fails" not in reported.out
    assert "run: WRONG: the consistency check eps 0 fails" in reported.out


@pytest.mark.slow
def test_the_records_do_not_depend_on_the_controls(command):
    for run, wanted in (("with", "true"), ("without", "false")):
        line = LINE.replace("--run run", f"--run {run} --model.sanity_checks {wanted}")
        assert command(*line.split(), "--model.victim", "nearest_mean.NearestMean").status == 0
    assert Path("with/records.jsonl").read_bytes() == Path("without/records.jsonl").read_bytes()
    findings = json.loads(Path("without/summary.json").read_text())["consistency_checks"]
    assert {"check": "eps 0", "state": "skip", "found": "no sanity checks were made", "remedy": ""} in findings

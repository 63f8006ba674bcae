"""A standard evaluation is killed in a later stage and goes on: no verdict changes, and every row is accounted for."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness import centred_network, images
from torch import nn

import rfdlight as rfd

SETTINGS = {"eps": 0.02, "budget": 30, "batch_size": 4, "access": "decision", "keep_images": 0}
STAGES = ["1-bernoulli_decision", "2-rays"]


class Counted(nn.Module):
    """Writes the rows of each forward pass to a file, also before a kill; dies by SIGKILL in the last allowed pass."""

    def __init__(self, log: Path, passes: int | None = None) -> None:
        super().__init__()
        self.network = centred_network()
        self.log = log
        self.left = passes

    def forward(self, x):
        with self.log.open("a") as log:
            log.write(f"{len(x)}\n")
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGKILL)
        return self.network(x)


def evaluate(log: Path, folder: Path, passes: int | None = None) -> rfd.StandardRun:
    model, x = Counted(log, passes), images(12)
    with torch.no_grad():
        y = model.network(x).argmax(1)
    resume = (folder / "standard.json").exists()
    return rfd.standard(model, (x, y), **SETTINGS, out=folder, resume=resume, progress=False)


def rows_in(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def killed(log: Path, folder: Path, passes: int) -> int:
    """Evaluate in a process that is killed in a pass; return its exit status."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = (  # imported by its name, as here: the code of the victim's module is a part of the fingerprint
        f"import sys; from pathlib import Path; sys.path[:0] = {folders!r}; "
        f"import {__name__} as own; own.evaluate(Path({str(log)!r}), Path({str(folder)!r}), {passes})"
    )
    line = [sys.executable, "-c", code]
    return subprocess.run(line, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


def check(tmp_path: Path, kills: int, seed: int) -> None:
    log = tmp_path / "whole.txt"
    whole = evaluate(log, tmp_path / "whole")
    assert whole.rows.total == whole.summary.ledger["rows"] == sum(rows_in(log))
    assert [stage.facts.attack for stage in whole.stages] == [name[2:] for name in STAGES]
    of_stage = [stage.facts.totals.total for stage in whole.stages]
    later = len(rows_in(log)) * of_stage[0] // sum(of_stage)  # about the passes of the first stage
    log, folder, moments = tmp_path / "killed.txt", tmp_path / "killed", random.Random(seed)
    died = 0
    for _ in range(kills):
        # A resumed evaluation begins with the passes that check the victim in every stage.
        first = later if died == 0 else 10
        status = killed(log, folder, moments.randint(first + 1, len(rows_in(tmp_path / "whole.txt")) - 1))
        assert status in (0, -signal.SIGKILL)
        died += status != 0
    assert died
    assert (folder / STAGES[0] / "summary.json").exists()
    run = evaluate(log, folder)
    assert run.images == whole.images
    assert [stage.records for stage in run.stages] == [stage.records for stage in whole.stages]
    assert rfd.load_standard(folder).images == whole.images
    assert run.summary.killed_attempts <= died  # a kill before the journal of a stage leaves no attempt
    assert run.summary.ledger["rows"] == run.rows.total
    # The ledger lacks the rows of unfinished images of killed attempts, and no others.
    assert whole.rows.total <= run.rows.total <= sum(rows_in(log))
    exact = [stage for stage in run.stages if not stage.facts.killed_attempts]
    assert all(stage.facts.totals.total == stage.facts.forwarded for stage in exact)


@pytest.mark.slow
def test_a_kill_in_a_later_stage_changes_no_record(tmp_path):
    check(tmp_path, kills=1, seed=0)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(1, 5))
def test_kills_again_and_again_change_no_record(seed, tmp_path):
    check(tmp_path, kills=6, seed=seed)

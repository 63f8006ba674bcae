"""Variables of torchrun and SLURM, whole, half set and contradicting."""

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment

from rfdlight.cli.launcher import check_launcher

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "1",
         "SLURM_NODEID": "0", "SLURM_STEP_ID": "0"}  # fmt: skip
ONE_TASK = SLURM | {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def without(variables, *names):
    return {name: value for name, value in variables.items() if name not in names}


@pytest.mark.parametrize("environ", [{}, {"SLURM_JOB_ID": "7", "PATH": "/bin"}])
def test_without_the_variables_there_is_no_launcher(environ):
    (finding,) = check_launcher(environ, terminal=True)
    assert (finding.check, finding.state) == ("launcher", "ok")


@pytest.mark.parametrize(
    ("environ", "state", "found"),
    [
        (TORCHRUN, "ok", "RANK=1 WORLD_SIZE=4 LOCAL_RANK=1 MASTER_ADDR=node0 MASTER_PORT=29500"),
        (TORCHRUN | {"RANK": "4"}, "fail", "RANK must be below WORLD_SIZE"),
        (TORCHRUN | {"RANK": "3"}, "ok", "RANK=3"),
        (TORCHRUN | {"LOCAL_RANK": "2"}, "fail", "LOCAL_RANK must be at most RANK"),
        (TORCHRUN | {"WORLD_SIZE": "four"}, "fail", "WORLD_SIZE=four is no whole number"),
        (TORCHRUN | {"RANK": "-1"}, "fail", "RANK=-1 is no whole number"),
        (TORCHRUN | {"MASTER_PORT": ""}, "fail", "MASTER_PORT= is no whole number"),
        (TORCHRUN | {"MASTER_PORT": "0"}, "fail", "MASTER_PORT must lie between 1 and 65535"),
        (TORCHRUN | {"MASTER_PORT": "65536"}, "fail", "MASTER_PORT must lie between 1 and 65535"),
        ({"RANK": "0"}, "fail", "RANK=0, no WORLD_SIZE LOCAL_RANK"),
        (without(TORCHRUN, "LOCAL_RANK"), "fail", "no LOCAL_RANK"),
        (without(TORCHRUN, "MASTER_PORT"), "warn", "no MASTER_PORT"),
        (without(TORCHRUN, "RANK", "WORLD_SIZE", "LOCAL_RANK"), "warn", "no RANK WORLD_SIZE LOCAL_RANK"),
    ],
)
def test_torchrun(environ, state, found):
    (finding,) = check_launcher(environ, terminal=False)
    assert (finding.check, finding.state) == ("torchrun", state)
    assert found in finding.found
    assert bool(finding.remedy) == (state != "ok")


def test_what_is_to_be_unset_is_what_is_set():
    (finding,) = check_launcher({"RANK": "0", "MASTER_PORT": "29500"}, terminal=False)
    assert finding.remedy == "unset RANK MASTER_PORT; or start with torchrun"


@pytest.mark.parametrize(
    ("environ", "terminal", "state", "found"),
    [
        (SLURM, False, "ok", "SLURM_NTASKS=4 SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NODEID=0"),
        (ONE_TASK, True, "ok", "SLURM_NTASKS=1"),
        (without(ONE_TASK, "SLURM_STEP_ID"), False, "ok", "SLURM_NTASKS=1"),
        (SLURM, True, "warn", "Lightning may wait for the others"),
        (without(SLURM, "SLURM_STEP_ID"), False, "warn", "not started by srun as one of 4"),
        (SLURM | {"SLURM_PROCID": "4"}, False, "fail", "SLURM_PROCID must be below SLURM_NTASKS"),
        (SLURM | {"SLURM_NTASKS": "2(x2)"}, False, "fail", "SLURM_NTASKS=2(x2) is no whole number"),
        (without(SLURM, "SLURM_NTASKS_PER_NODE"), False, "fail", "refuses several tasks"),
        (without(SLURM, "SLURM_PROCID", "SLURM_LOCALID"), False, "fail", "no SLURM_PROCID SLURM_LOCALID"),
        ({"SLURM_NTASKS": "1"}, True, "warn", "no SLURM_PROCID SLURM_LOCALID SLURM_NODEID"),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, True, "ok", "an interactive job"),
        ({"SLURM_PROCID": "0"}, False, "ok", "SLURM_PROCID=0"),
        ({"SLURM_PROCID": "3"}, False, "fail", "SLURM_PROCID=3, no SLURM_NTASKS"),
    ],
)
def test_slurm(environ, terminal, state, found):
    (finding,) = check_launcher(environ, terminal)
    assert (finding.check, finding.state) == ("SLURM", state)
    assert found in finding.found
    assert bool(finding.remedy) == (state != "ok")


def test_an_address_alone_is_fine_beside_slurm_and_both_launchers_are_judged():
    meeting = without(TORCHRUN, "RANK", "WORLD_SIZE", "LOCAL_RANK")
    assert [finding.check for finding in check_launcher(SLURM | meeting, terminal=False)] == ["SLURM"]
    both = check_launcher(SLURM | TORCHRUN, terminal=False)
    assert [(finding.check, finding.state) for finding in both] == [("torchrun", "ok"), ("SLURM", "ok")]


def test_lightning_does_refuse_several_tasks_without_their_number_per_node(monkeypatch):
    for name, value in without(SLURM, "SLURM_NTASKS_PER_NODE").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    monkeypatch.delenv("SLURM_JOB_NAME", raising=False)
    with pytest.raises(RuntimeError, match="ntasks-per-node"):
        SLURMEnvironment()
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert not SLURMEnvironment.detect()

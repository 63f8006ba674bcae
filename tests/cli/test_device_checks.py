"""Devices, most of which this machine has not: torch is made to say that they are there."""

import os
import warnings

import pytest
import torch

from rfdlight.cli import devices
from rfdlight.cli.devices import check_bfloat16, check_cpu, check_gpus

ONES = torch.ones


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """A machine without GPU and driver, with a torch for CUDA 12.8."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "driver")
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def gpu(monkeypatch):
    """One GPU with 40 of 80 GB free, which computes as the CPU does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Fast One")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (40 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch, "ones", lambda size, device: ONES(size))


@pytest.mark.parametrize(
    ("cores", "threads", "state", "remedy"),
    [
        (8, 8, "ok", ""),
        (8, 4, "ok", ""),
        (8, 3, "warn", "set OMP_NUM_THREADS=8, unless other runs share the cores"),
        (8, 9, "warn", "set OMP_NUM_THREADS=8: more threads than cores are slower"),
        (1, 1, "ok", ""),
    ],
)
def test_threads_are_compared_with_the_cores_that_the_process_may_use(monkeypatch, cores, threads, state, remedy):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (finding,) = check_cpu()
    assert (finding.state, finding.remedy) == (state, remedy)
    assert finding.found.startswith(f"{cores} of 64 cores, {threads} thread")
    assert finding.found.endswith("of torch, OMP_NUM_THREADS=7")


@pytest.mark.parametrize(
    ("emulates", "has_gpu", "state"), [(False, False, "ok"), (True, True, "ok"), (True, False, "warn")]
)
def test_emulated_bfloat16_matters_without_a_gpu(monkeypatch, emulates, has_gpu, state):
    monkeypatch.setattr(devices, "emulates_bfloat16", lambda: emulates)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    (finding,) = check_bfloat16()
    assert finding.state == state
    assert ("32-true" in finding.remedy) == (state == "warn")


def test_a_gpu_that_computes(gpu):
    (finding,) = check_gpus()
    assert (finding.check, finding.state, finding.found) == ("GPU 0", "ok", "Fast One, 40.0 of 80.0 GB free")


def test_a_gpu_that_is_full(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (9 * 10**8, 80 * 10**9))
    (finding,) = check_gpus()
    assert (finding.state, finding.found) == ("warn", "Fast One, 0.9 of 80.0 GB free")


def test_a_gpu_that_this_torch_was_not_built_for(gpu, monkeypatch):
    def refuses(size, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors")

    monkeypatch.setattr(torch, "ones", refuses)
    (finding,) = check_gpus()
    assert finding.state == "fail"
    assert finding.found == "CUDA error: no kernel image is available for execution on the device"
    assert finding.remedy.startswith("install a torch build for it")


def test_a_gpu_that_computes_wrongly(gpu, monkeypatch):
    monkeypatch.setattr(torch, "ones", lambda size, device: torch.zeros(size))
    (finding,) = check_gpus()
    assert finding.state == "fail"
    assert "1 + 1 is 0.0" in finding.found


def test_one_bad_gpu_does_not_hide_the_others(gpu, monkeypatch):
    def name(index):
        if index == 0:
            raise RuntimeError("lost")
        return "Fast One"

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", name)
    assert [(finding.check, finding.state) for finding in check_gpus()] == [("GPU 0", "fail"), ("GPU 1", "ok")]


def test_mps(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * 10**9)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2 * 10**9)
    (finding,) = check_gpus()
    assert (finding.check, finding.state) == ("GPU", "ok")
    assert finding.found == "MPS, 10.0 GB free; rfdlight test uses the CPU: it needs float64"


@pytest.mark.parametrize(
    ("cuda", "driver", "hidden", "state", "found"),
    [
        ("12.8", False, None, "ok", "none; torch is built for CUDA 12.8"),
        (None, False, None, "ok", "none; torch is built for the CPU alone"),
        ("12.8", True, None, "warn", "torch is built for CUDA 12.8 and finds none, but there is a driver"),
        ("12.8", True, "", "ok", "none visible: CUDA_VISIBLE_DEVICES=''"),
        (None, True, None, "warn", "there is an NVIDIA driver, but torch is built for the CPU alone"),
        (None, True, "0", "warn", "there is an NVIDIA driver, but torch is built for the CPU alone"),
    ],
)
def test_no_gpu_never_fails_and_says_why(monkeypatch, cuda, driver, hidden, state, found):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    if driver:
        devices._DRIVER.write_text("NVRM version")
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    (finding,) = check_gpus()
    assert (finding.check, finding.state, finding.found) == ("GPU", state, found)
    assert bool(finding.remedy) == (state == "warn")


def test_what_torch_warns_of_is_told_in_the_row_and_nowhere_else(monkeypatch):
    def available():
        warnings.warn("The NVIDIA driver on your system\nis too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (finding,) = check_gpus()
    assert (finding.state, finding.found) == ("warn", "The NVIDIA driver on your system is too old")

"""What computes here: the processor's threads and units, and the GPUs."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import torch

from rfdlight.errors import one_line
from rfdlight.records.diagnostic import Finding

_DRIVER = Path("/proc/driver/nvidia/version")
_INSTALL = "install a torch build for it, see pytorch.org/get-started"
_LITTLE = 1e9
"""Bytes of free memory of a GPU below which a run will hardly fit."""


def imitates_bfloat16() -> bool:
    """Say whether this processor has no units for bfloat16, which then takes many times as long as float32."""
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def check_cpu() -> list[Finding]:
    """Compare torch's threads with the cores that this process may use, and look for bfloat16 units.

    Half as many threads as cores are right where a core runs two threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    found = f"{cores} of {os.cpu_count()} cores, {threads} thread{'s' * (threads != 1)} of torch"
    if "OMP_NUM_THREADS" in os.environ:
        found += f", OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
    if threads > cores:
        return [Finding("CPU", "warn", found, f"set OMP_NUM_THREADS={cores}: more threads than cores are slower")]
    if 2 * threads < cores:
        remedy = f"set OMP_NUM_THREADS={cores}, unless other runs share the cores"
        return [Finding("CPU", "warn", found, remedy)]
    return [Finding("CPU", "ok", found)]


def check_bfloat16() -> list[Finding]:
    """Look for bfloat16 units, which matter where the CPU is all there is."""
    if not imitates_bfloat16():
        return [Finding("bfloat16", "ok", "the processor has units for it")]
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return [Finding("bfloat16", "ok", "the processor imitates it, slowly; there is a GPU")]
    return [
        Finding("bfloat16", "warn", "the processor imitates it, slowly", "on the CPU keep --trainer.precision 32-true")
    ]


def check_gpus() -> list[Finding]:
    """Compute something on every GPU, and say how much of its memory is free."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        return [_cuda(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return [Finding("GPU", "ok", f"MPS, {free / 1e9:.1f} GB free; rfdlight test takes the CPU: it needs float64")]
    return [_no_gpu([one_line(warning.message) for warning in told])]


def _cuda(index: int) -> Finding:
    check = f"GPU {index}"
    try:
        name = torch.cuda.get_device_name(index)
        free, total = torch.cuda.mem_get_info(index)
        found = f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        if free < _LITTLE:
            return Finding(check, "warn", found, "end what fills it, or take another with --trainer.devices")
        computed = torch.ones(2, device=f"cuda:{index}").cumsum(0).tolist()
    except RuntimeError as error:
        return Finding(check, "fail", str(error).partition("\n")[0], _INSTALL)
    if computed != [1.0, 2.0]:
        return Finding(
            check, "fail", f"{found}, but 1 + 1 is {computed[1]}", "do not trust this GPU: look at nvidia-smi"
        )
    return Finding(check, "ok", found)


def _no_gpu(told: list[str]) -> Finding:
    """Say why there is none: told is what torch warned of when it was asked."""
    built = next((f"{kind} {v}" for kind, v in (("CUDA", torch.version.cuda), ("ROCm", torch.version.hip)) if v), None)
    driver = _DRIVER.exists() or shutil.which("nvidia-smi") is not None
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if built and hidden is not None:
        return Finding("GPU", "ok", f"none to be seen: CUDA_VISIBLE_DEVICES={hidden!r}")
    if built and told:
        return Finding("GPU", "warn", told[0], "mend the driver, or " + _INSTALL)
    if built and driver:
        remedy = "look at nvidia-smi, and whether this container may use the GPU"
        return Finding("GPU", "warn", f"torch is built for {built} and finds none, but there is a driver", remedy)
    if driver:
        return Finding("GPU", "warn", "there is an NVIDIA driver, but torch is built for the CPU alone", _INSTALL)
    return Finding("GPU", "ok", f"none; torch is built for {built or 'the CPU alone'}")

"""Checks of the devices: threads and bfloat16 units of the processor, and the GPUs."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import torch

from rfdlight.errors import one_line
from rfdlight.records.diagnostic import Diagnostic

_DRIVER = Path("/proc/driver/nvidia/version")
_INSTALL = "install a torch build for it, see pytorch.org/get-started"
_LITTLE = 1e9
"""Bytes of free GPU memory below which a run hardly fits."""


def emulates_bfloat16() -> bool:
    """Return whether this processor has no bfloat16 units; bfloat16 then takes many times as long as float32."""
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def check_cpu() -> list[Diagnostic]:
    """Compare the number of torch's threads with the cores that this process may use.

    Half as many threads as cores are fine, since a core may run two threads.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    found = f"{cores} of {os.cpu_count()} cores, {threads} thread{'s' * (threads != 1)} of torch"
    if "OMP_NUM_THREADS" in os.environ:
        found += f", OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
    remedy = f"set OMP_NUM_THREADS={cores}"
    if threads > cores:
        return [Diagnostic("CPU", "warn", found, f"{remedy}: more threads than cores are slower")]
    if 2 * threads < cores:
        return [Diagnostic("CPU", "warn", found, f"{remedy}, unless other runs share the cores")]
    return [Diagnostic("CPU", "ok", found)]


def check_bfloat16() -> list[Diagnostic]:
    """Check for bfloat16 units of the processor, which matter without a GPU."""
    if not emulates_bfloat16():
        return [Diagnostic("bfloat16", "ok", "the processor has units for it")]
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return [Diagnostic("bfloat16", "ok", "the processor emulates it, slowly; there is a GPU")]
    remedy = "on the CPU keep --trainer.precision 32-true"
    return [Diagnostic("bfloat16", "warn", "the processor emulates it, slowly", remedy)]


def check_gpus() -> list[Diagnostic]:
    """Compute a sum on every GPU, and measure its free memory."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        return [_cuda(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        found = f"MPS, {free / 1e9:.1f} GB free; rfdlight test uses the CPU: it needs float64"
        return [Diagnostic("GPU", "ok", found)]
    return [_no_gpu([one_line(warning.message) for warning in caught])]


def _cuda(index: int) -> Diagnostic:
    check = f"GPU {index}"
    try:
        free, total = torch.cuda.mem_get_info(index)
        found = f"{torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        if free < _LITTLE:
            return Diagnostic(check, "warn", found, "end what fills it, or choose another with --trainer.devices")
        computed = torch.ones(2, device=f"cuda:{index}").cumsum(0).tolist()
    except RuntimeError as error:
        return Diagnostic(check, "fail", str(error).partition("\n")[0], _INSTALL)
    if computed != [1.0, 2.0]:
        remedy = "do not trust this GPU: look at nvidia-smi"
        return Diagnostic(check, "fail", f"{found}, but 1 + 1 is {computed[1]}", remedy)
    return Diagnostic(check, "ok", found)


def _no_gpu(warned: list[str]) -> Diagnostic:
    """Return the reason why there is no GPU, from the warnings of torch and the driver."""
    built = next((f"{kind} {v}" for kind, v in (("CUDA", torch.version.cuda), ("ROCm", torch.version.hip)) if v), None)
    driver = _DRIVER.exists() or shutil.which("nvidia-smi") is not None
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if built and hidden is not None:
        return Diagnostic("GPU", "ok", f"none visible: CUDA_VISIBLE_DEVICES={hidden!r}")
    if built and warned:
        return Diagnostic("GPU", "warn", warned[0], "repair the driver, or " + _INSTALL)
    if built and driver:
        remedy = "look at nvidia-smi, and whether this container may use the GPU"
        return Diagnostic("GPU", "warn", f"torch is built for {built} and finds none, but there is a driver", remedy)
    if driver:
        return Diagnostic("GPU", "warn", "there is an NVIDIA driver, but torch is built for the CPU alone", _INSTALL)
    return Diagnostic("GPU", "ok", f"none; torch is built for {built or 'the CPU alone'}")

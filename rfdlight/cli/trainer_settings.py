"""Machine-specific Trainer settings, and checks of the launcher and the precision."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from rfdlight.cli.devices import emulates_bfloat16
from rfdlight.cli.launcher import check_launcher, started_by_lightning, started_processes, under_slurm
from rfdlight.errors import UserError


def refuse_remains(environ: Mapping[str, str]) -> None:
    """Check the variables of torchrun and SLURM, which may be left over from another job.

    Raises:
        UserError: If they contradict one another; names them and a remedy.
    """
    if started_by_lightning(environ):
        return
    for diagnostic in check_launcher(environ, terminal=True):
        if diagnostic.state == "fail":
            raise UserError(f"{diagnostic.found}; {diagnostic.remedy}")


@contextmanager
def misconfigurations() -> Iterator[None]:
    """Turn the RuntimeErrors of a Trainer's constructor into misconfigurations."""
    try:
        yield
    except RuntimeError as error:
        raise MisconfigurationException(str(error)) from error


def processes(config: Namespace, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the Trainer settings for the processes of an evaluation.

    By default one device is used, or as many as torchrun or srun have started processes.

    Args:
        config: The given settings of the Trainer.
        environ: The environment.

    Raises:
        UserError: If the strategy starts processes that do not run the command line, or the precision or the device
            has no float64, in which the success criterion counts.
    """
    if config.precision not in (None, 32, "32", "32-true"):
        raise UserError(
            f"--trainer.precision must be 32-true for rfdlight test, got {config.precision}; the attack's own is "
            "--model.precision"
        )
    if config.accelerator == "mps":
        raise UserError("rfdlight test counts in float64, which MPS does not have: give --trainer.accelerator cpu")
    if config.strategy not in ("auto", "ddp"):
        raise UserError(f"rfdlight test runs on several devices with --trainer.strategy ddp, got {config.strategy}")
    settings: dict[str, Any] = {}
    if config.accelerator == "auto" and torch.backends.mps.is_available():
        settings["accelerator"] = "cpu"
    if under_slurm(environ):
        # Lightning's checkpoints hold no part of an evaluation; --resume continues a preempted job.
        settings["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    if config.devices == "auto":
        here, machines = started_processes(environ) or (1, config.num_nodes)
        settings |= {"devices": here, "num_nodes": machines}
        if here * machines > 1:
            settings["strategy"] = "ddp"
    return settings


def warn_of_slow_precision(trainer: Trainer) -> None:
    """Warn if this processor emulates bfloat16, which takes many times as long as float32."""
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if on_cpu and "bf16" in str(trainer.precision) and emulates_bfloat16():
        print(  # noqa: T201
            f"rfdlight: this processor emulates the precision {trainer.precision}, slowly; "
            "--trainer.precision 32-true is faster",
            file=sys.stderr,
        )

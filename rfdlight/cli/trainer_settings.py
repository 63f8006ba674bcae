"""What a trainer has to be told, or the user of it, where this machine or its launcher asks for it."""

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

from rfdlight.cli.devices import imitates_bfloat16
from rfdlight.cli.launcher import check_launcher, started_by_lightning, started_processes, under_slurm
from rfdlight.errors import UserError


def refuse_remains(environ: Mapping[str, str]) -> None:
    """Refuse variables of torchrun or SLURM that Lightning would stumble over.

    Raises:
        UserError: Says which, and what to do.
    """
    if started_by_lightning(environ):
        return
    for finding in check_launcher(environ, terminal=True):
        if finding.state == "fail":
            raise UserError(f"{finding.found}; {finding.remedy}")


@contextmanager
def misconfigurations() -> Iterator[None]:
    """Raise as a misconfiguration what Lightning refuses by RuntimeError while it builds a trainer."""
    try:
        yield
    except RuntimeError as error:
        raise MisconfigurationException(str(error)) from error


def processes(config: Namespace, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what the trainer of an evaluation has to be told of its processes.

    One device is taken where none is asked for, or as many as torchrun or srun have started processes.

    Args:
        config: The trainer's options.
        environ: The environment.

    Raises:
        UserError: If the strategy is not one in which each process runs the command line, or the precision or the
            device is not one in which the criterion can count.
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
    told: dict[str, Any] = {}
    if config.accelerator == "auto" and torch.backends.mps.is_available():
        told["accelerator"] = "cpu"
    if under_slurm(environ):
        # Its checkpoints hold no part of an evaluation; --resume goes on with a job that was taken away.
        told["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    if config.devices == "auto":
        here, machines = started_processes(environ) or (1, config.num_nodes)
        told |= {"devices": here, "num_nodes": machines}
        if here * machines > 1:
            told["strategy"] = "ddp"
    return told


def warn_of_slow_precision(trainer: Trainer) -> None:
    """Say so if this processor has to imitate bfloat16, which takes many times as long as float32."""
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if on_cpu and "bf16" in str(trainer.precision) and imitates_bfloat16():
        print(  # noqa: T201
            f"rfdlight: this processor imitates the precision {trainer.precision}, slowly; "
            "--trainer.precision 32-true is faster",
            file=sys.stderr,
        )

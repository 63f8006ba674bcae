"""`rfdlight test --attack standard`: the standard evaluation from a command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

from lightning.pytorch import Trainer

from rfdlight._io import plain_console
from rfdlight.data.base import ImageData
from rfdlight.defenses.base import undefended
from rfdlight.errors import UserError, expect, shown
from rfdlight.evaluation.attack_evaluation import AttackEvaluation
from rfdlight.evaluation.config import EvaluationConfig
from rfdlight.evaluation.standard import VERSION, StandardAttack, standard
from rfdlight.records.standard import FILE
from rfdlight.reporting.standard_table import standard_table
from rfdlight.victims.resolve import resolve_victim

_FREE = {"budget", "batch_size", "keep_images", "seed"}
"""Fields of `EvaluationConfig` that a standard evaluation has."""


def is_standard(model: Any) -> bool:
    """Return whether the model of a command line is a standard evaluation."""
    return isinstance(model, AttackEvaluation) and isinstance(model.attack, StandardAttack)


def run_standard(
    model: AttackEvaluation, data: ImageData, trainer: Trainer, folder: str, on_ready: Callable[[], None]
) -> int:
    """Run or resume a standard evaluation and print its table; `on_ready` is called when its folder is taken.

    Returns the exit status: 0, or 1 if images failed.
    """
    attack = model.attack
    assert isinstance(attack, StandardAttack)
    check_standard(model.config, trainer)
    loaded = resolve_victim(model.victim_spec, model.checkpoint, data, model.config.batch_size)
    model.trainer = trainer
    with nullcontext() if model.defended else undefended():
        run = standard(
            loaded,
            data,
            eps=attack.eps,
            norm=attack.norm,
            access=attack.stages_access,
            defense=model.defenses,
            device=trainer.strategy.root_device,
            out=folder,
            resume=model.resume,
            on_ready=on_ready,
            **{name: getattr(model.config, name) for name in sorted(_FREE)},
        )
    console = plain_console()
    console.print(standard_table(run.settings, run.summary))
    console.print(f"stages and {FILE}: {shown(folder)}", soft_wrap=True)
    failed = run.summary.counts["failed"]
    if failed:
        reason = f"{failed} images failed and are in no number; the summary.json of a stage says why"
        print(f"rfdlight: {reason}", file=sys.stderr)  # noqa: T201
    return 1 if failed else 0


def check_standard(config: EvaluationConfig, trainer: Trainer) -> None:
    """Refuse several processes, and settings that a standard evaluation fixes."""
    expect(trainer.world_size == 1, "--trainer.devices", "1", trainer.world_size, f"{VERSION} runs in one process")
    for setting in fields(EvaluationConfig):
        value = getattr(config, setting.name)
        if setting.name not in _FREE and value != setting.default:
            raise UserError(f"model.{setting.name}: {VERSION} has {setting.default}, got {value}; leave it out")

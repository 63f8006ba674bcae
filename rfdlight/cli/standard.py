"""`rfdlight test --attack standard`: which command lines run the standard evaluation."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from rfdlight.errors import UserError
from rfdlight.evaluation.attack_evaluation import AttackEvaluation
from rfdlight.evaluation.config import EvaluationConfig
from rfdlight.evaluation.standard import StandardAttack
from rfdlight.records.standard import VERSION

_FREE = {"batch_size", "budget", "compile", "keep_images", "seed"}
"""Fields of `EvaluationConfig` that a standard evaluation has."""


def is_standard(model: Any) -> bool:
    """Return whether the model of a command line is a standard evaluation."""
    return isinstance(model, AttackEvaluation) and isinstance(model.attack, StandardAttack)


def check_standard(config: EvaluationConfig) -> None:
    """Refuse settings that a standard evaluation fixes."""
    for setting in fields(EvaluationConfig):
        value = getattr(config, setting.name)
        if setting.name not in _FREE and value != setting.default:
            raise UserError(f"model.{setting.name}: {VERSION} has {setting.default}, got {value}; leave it out")

"""rfdlight: does an image classifier survive query-based black-box attacks?"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rfdlight import attacks, data, defenses, testing, training, victims
    from rfdlight.attacks import Attack
    from rfdlight.core.registry import list_attacks, list_criteria, list_data, list_defenses, list_victims
    from rfdlight.data import ImageData, Images
    from rfdlight.defenses import AAA, Defense, FeatureNoise, InputNoise, LogitNoise, undefended
    from rfdlight.engine.criteria import SuccessCriterion
    from rfdlight.errors import DefenseError, UserError
    from rfdlight.evaluation.attack_evaluation import AttackEvaluation
    from rfdlight.evaluation.compare import Comparison, compare
    from rfdlight.evaluation.evaluate import evaluate
    from rfdlight.evaluation.report import report
    from rfdlight.evaluation.run import Run, load_run
    from rfdlight.records.records import Record
    from rfdlight.records.summary import Estimate
    from rfdlight.training.classifier import Classifier
    from rfdlight.victims import Victim
    from rfdlight.victims.resolve import load_victim

__version__ = "0.1.0"

_HOMES = {
    "AAA": "defenses",
    "Attack": "attacks",
    "AttackEvaluation": "evaluation.attack_evaluation",
    "Classifier": "training.classifier",
    "Comparison": "evaluation.compare",
    "Defense": "defenses",
    "DefenseError": "errors",
    "Estimate": "records.summary",
    "FeatureNoise": "defenses",
    "ImageData": "data",
    "Images": "data",
    "InputNoise": "defenses",
    "LogitNoise": "defenses",
    "Record": "records.records",
    "Run": "evaluation.run",
    "SuccessCriterion": "engine.criteria",
    "UserError": "errors",
    "Victim": "victims",
    "compare": "evaluation.compare",
    "evaluate": "evaluation.evaluate",
    "list_attacks": "core.registry",
    "list_criteria": "core.registry",
    "list_data": "core.registry",
    "list_defenses": "core.registry",
    "list_victims": "core.registry",
    "load_run": "evaluation.run",
    "load_victim": "victims.resolve",
    "report": "evaluation.report",
    "undefended": "defenses",
}
_ROOMS = ("attacks", "data", "defenses", "testing", "training", "victims")

__all__ = [
    "AAA", "Attack", "AttackEvaluation", "Classifier", "Comparison", "Defense", "DefenseError", "Estimate",
    "FeatureNoise", "ImageData", "Images", "InputNoise", "LogitNoise", "Record", "Run", "SuccessCriterion",
    "UserError", "Victim", "attacks", "compare", "data", "defenses", "evaluate", "list_attacks", "list_criteria",
    "list_data", "list_defenses", "list_victims", "load_run", "load_victim", "report", "testing", "training",
    "undefended", "victims",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

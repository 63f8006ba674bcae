"""rfdlight: does an image classifier survive query-based black-box attacks?"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rfdlight import attacks, data, defenses, testing, training, victims
    from rfdlight.analysis.calibration import Calibration, calibrate
    from rfdlight.attacks import Attack
    from rfdlight.core.registry import list_attacks, list_criteria, list_data, list_defenses, list_victims
    from rfdlight.data import ImageData, Images
    from rfdlight.defenses import AAA, AveragedAnswers, Defense, FeatureNoise, InputNoise, LogitNoise, undefended
    from rfdlight.deployment.export import export
    from rfdlight.engine.criteria import SuccessCriterion
    from rfdlight.errors import DefenseError, UserError
    from rfdlight.evaluation.attack_evaluation import AttackEvaluation
    from rfdlight.evaluation.compare import Comparison, compare
    from rfdlight.evaluation.evaluate import evaluate
    from rfdlight.evaluation.run import Run, load_run, report
    from rfdlight.evaluation.standard import StandardRun, load_standard, standard
    from rfdlight.records.records import Record
    from rfdlight.records.summary import Estimate
    from rfdlight.training.classifier import Classifier
    from rfdlight.victims import HTTPVictim, ONNXVictim, Victim, wrap
    from rfdlight.victims.resolve import load_victim

__version__ = "0.1.0"

__all__ = [
    "AAA", "Attack", "AttackEvaluation", "AveragedAnswers", "Calibration", "Classifier", "Comparison", "Defense",
    "DefenseError", "Estimate", "FeatureNoise", "HTTPVictim", "ImageData", "Images", "InputNoise", "LogitNoise",
    "ONNXVictim", "Record", "Run", "StandardRun", "SuccessCriterion", "UserError", "Victim", "attacks", "calibrate",
    "compare", "data", "defenses", "evaluate", "export", "list_attacks", "list_criteria", "list_data",
    "list_defenses", "list_victims", "load_run", "load_standard", "load_victim", "report", "standard", "testing",
    "training", "undefended", "victims", "wrap",
]  # fmt: skip

_ROOMS = ("attacks", "data", "defenses", "testing", "training", "victims")

_HOMES = {
    "analysis.calibration": ("Calibration", "calibrate"),
    "core.registry": ("list_attacks", "list_criteria", "list_data", "list_defenses", "list_victims"),
    "deployment.export": ("export",),
    "engine.criteria": ("SuccessCriterion",),
    "errors": ("DefenseError", "UserError"),
    "evaluation.attack_evaluation": ("AttackEvaluation",),
    "evaluation.compare": ("Comparison", "compare"),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.run": ("Run", "load_run", "report"),
    "evaluation.standard": ("StandardRun", "load_standard", "standard"),
    "records.records": ("Record",),
    "records.summary": ("Estimate",),
    "training.classifier": ("Classifier",),
    "victims.resolve": ("load_victim",),
    "attacks": ("Attack",),
    "data": ("ImageData", "Images"),
    "defenses": ("AAA", "AveragedAnswers", "Defense", "FeatureNoise", "InputNoise", "LogitNoise", "undefended"),
    "victims": ("HTTPVictim", "ONNXVictim", "Victim", "wrap"),
}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `import rfdlight` is light."""
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

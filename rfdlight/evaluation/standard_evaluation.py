"""The standard evaluation on the devices of a trainer."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rfdlight.errors import UserError, shown
from rfdlight.evaluation.attack_evaluation import AttackEvaluation
from rfdlight.evaluation.config import EvaluationConfig
from rfdlight.evaluation.standard import StandardAttack, StandardRun, run_standard
from rfdlight.records.standard import FILE, VERSION
from rfdlight.reporting.standard_table import standard_table
from rfdlight.victims.resolve import LoadedVictim

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


class StandardEvaluation(AttackEvaluation):
    """Run the stages of a standard evaluation in turn, each in all processes of the trainer, below its directory.

    Its attack is a `StandardAttack`. After the test, `standard_run` holds the result in process 0.
    """

    standard_run: StandardRun | None = None

    @classmethod
    def of(cls, model: AttackEvaluation) -> StandardEvaluation:
        """Return the standard evaluation that an `AttackEvaluation` with a `StandardAttack` stands for."""
        made = cls(model.victim_spec, model.checkpoint, model.attack, model.defended, **asdict(model.config))
        made.resume, made.load, made.on_ready = model.resume, model.load, model.on_ready
        return made

    def prepare(self, loaded: LoadedVictim) -> None:
        """Keep the victim for the stages, which take their run directories themselves."""
        self._loaded = loaded

    def evaluate(self) -> None:
        """Run or resume all stages and report."""
        assert isinstance(self.attack, StandardAttack)
        folder = Path(self.trainer.default_root_dir)
        self.standard_run = run_standard(
            self._loaded,
            self.data,
            self.attack,
            self.config,
            self.processes,
            device=self.device,
            folder=folder,
            resume=self.resume,
            on_ready=self.on_ready,
        )
        if self.standard_run is not None:
            self.console.print(standard_table(self.standard_run.settings, self.standard_run.summary))
            self.console.print(f"stages and {FILE}: {shown(str(folder))}", soft_wrap=True)

    @property
    def stopped(self) -> bool:
        """Whether images are left in some stage."""
        return self.standard_run is None

    @property
    def fault(self) -> str | None:
        """What is wrong with the finished evaluation, None if nothing is."""
        assert self.standard_run is not None
        failed = self.standard_run.summary.counts["failed"]
        return f"{failed} images failed and are in no number; the summary.json of a stage says why" if failed else None

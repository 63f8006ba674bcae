"""The LightningModule that attacks a victim: Lightning's devices and processes around an `Evaluation`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from rfdlight._io import plain_console
from rfdlight.attacks.base import Attack
from rfdlight.data.base import ImageData
from rfdlight.data.loaders import Batch
from rfdlight.defenses.base import Defense, undefended
from rfdlight.engine.compilation import CompiledVictim
from rfdlight.engine.criteria import criterion_named
from rfdlight.errors import UserError, shown
from rfdlight.evaluation.conclusion import conclude
from rfdlight.evaluation.config import EvaluationConfig, Subject, settle_eps
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.evaluation.interface import console_interface
from rfdlight.evaluation.processes import Processes, ReportedByLeader
from rfdlight.evaluation.run import Run
from rfdlight.evaluation.run_writer import RunWriter
from rfdlight.evaluation.surrogate import settle_surrogate
from rfdlight.reporting.tables import checks_text, failures_text, run_table
from rfdlight.victims.import_path import maker_module
from rfdlight.victims.resolve import LoadedVictim, load, resolve_victim


class AttackEvaluation(LightningModule):
    """Measure the robust accuracy of a classifier, with or without a defense, under a query-based attack.

    The trainer's `default_root_dir` gets a journal with one line per finished image, and at the end `records.jsonl`,
    `summary.json`, `curves.png` and `images.safetensors`. An image that cannot be read, or on which the victim raises
    or returns NaN or infinity, is left out, and `summary.json` gives the reason.

    The processes of a trainer with several devices share the images through one store: each image is attacked exactly
    once, and free processes take the next one. Process 0 writes the run directory and prints messages; all processes
    write a journal of their own in it, so that all must reach the folder.

    `on_ready` is called once, in process 0, when all checks have passed and the directory is locked. `resume`, set to
    True, continues the run in the directory. `load` loads the victim, by default as `rfdlight.victims.resolve.load`
    does. After the test, `run` holds the result in process 0.

    Args:
        victim: A shipped name, the path of a victim card, an import path, or a scheme: timm:NAME, hf:NAME_OR_FOLDER,
            onnx:FILE, torchscript:FILE, torch-export:FILE, http://HOST/PATH, https://HOST/PATH; by default the victim
            of the data set.
        checkpoint: A file of weights for a victim without a card.
        attack: The attack.
        defended: False disables all defenses.
        **settings: See `rfdlight.evaluation.config.EvaluationConfig`.

    Raises:
        UserError: If a number is out of range, no attack is given, or the criterion is not defined for the attack.
    """

    victim: nn.Module

    def __init__(
        self,
        victim: str | None = None,
        checkpoint: str | None = None,
        attack: Attack | None = None,
        defended: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__()
        if attack is None:
            raise UserError("an attack is needed: --attack NAME")
        self.config = EvaluationConfig(**settings)
        criterion_named(self.config.criterion).check(attack)
        self.victim_spec = victim
        self.checkpoint = checkpoint
        self.attack = attack
        self.defended = defended
        self.resume = False
        self.load: Callable[..., LoadedVictim] = load
        self.run: Run | None = None
        self.console = plain_console()
        self.processes = Processes()
        self.on_ready: Callable[[], None] = lambda: None
        self._open = ExitStack()
        self._checked_rows = 0  # by the loads of the victim for the next run

    @property
    def data(self) -> ImageData:
        """The data module of the trainer."""
        data: ImageData = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    @property
    def defenses(self) -> list[Defense]:
        """The defenses among the trainer's callbacks, in order; none if `defended` is false."""
        callbacks = self.trainer.callbacks if self.defended else []  # type: ignore[attr-defined]
        return [callback for callback in callbacks if isinstance(callback, Defense)]

    def load_victim(self, data: ImageData) -> LoadedVictim:
        """Load the victim and check it on images of the shape of the data."""
        loaded = resolve_victim(self.victim_spec, self.checkpoint, data, self.config.given_rows, self.load)
        self._checked_rows += loaded.checked_rows
        return loaded

    def setup(self, stage: str) -> None:
        """Load the victim and prepare its evaluation."""
        self.processes = Processes(self.trainer.global_rank, self.trainer.world_size)
        self.console.quiet = not self.processes.leads
        try:
            self._take_signals()
            loaded = replace(self.load_victim(self.data), checked_rows=self._checked_rows)
            self._checked_rows = 0
            self.victim = loaded.module
            self.prepare(loaded)
            self.data.share((), lambda images: ())  # of which the trainer makes its own loader, before the attack
        except BaseException as error:
            self._close(error)
            raise

    def prepare(self, loaded: LoadedVictim) -> None:
        """Take the run directory."""
        self.attack = settle_surrogate(settle_eps(self.attack, self.data), self.data)
        subject = Subject(
            self.victim,
            loaded.description,
            self.data,
            self.attack,
            self.defenses,
            card=loaded.card,
            maker=maker_module(self.victim_spec),
            checked_rows=loaded.checked_rows,
            compiled=CompiledVictim(self.victim),
        )
        subject.check(self.config)
        writer = RunWriter(Path(self.trainer.default_root_dir), self.resume, self.processes)
        self._open.callback(writer.close)
        self._evaluation = Evaluation(
            subject,
            self.config,
            writer=writer,
            processes=self.processes,
            interface=console_interface(self.console),
            on_ready=self.on_ready,
        )

    def _take_signals(self) -> None:
        """Have Ctrl-C and SIGTERM stop the run and keep its finished images.

        Lightning's own handler, which would replace these, waits for the other processes.
        """
        self.trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        for number in (signal.SIGINT, signal.SIGTERM):
            self._open.callback(signal.signal, number, signal.signal(number, lambda *_: self.processes.stop()))

    def on_test_start(self) -> None:
        """Attack all images and report; the trainer's own loop finds no batch."""
        try:
            with nullcontext() if self.defended else undefended():
                self.evaluate()
        except BaseException as error:
            self._close(error)
            if not (isinstance(error, ReportedByLeader) and self.processes.lost):
                raise
        self._open.close()

    def evaluate(self) -> None:
        """Attack all images and report."""
        self._evaluation.run(self.device)
        if self.processes.leads:
            self.run = conclude(self._evaluation)
            self._report(self.run)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Do nothing: Lightning requires a test step, but `on_test_start` has attacked all images."""

    def _close(self, error: BaseException) -> None:
        """Restore terminal, files and signals after a failure, which only process 0 reports."""
        self.processes.report_failure(error)
        self._open.close()
        if isinstance(error, UserError) and not (self.processes.leads or self.processes.lost):
            raise ReportedByLeader(str(error)) from error

    def _report(self, run: Run) -> None:
        """Print the tables of a run."""
        if run.facts.failed:
            self.console.print(failures_text(run.facts.failed, run.facts.num_images), soft_wrap=True)
        if not run.records:
            return
        self.console.print(run_table(run.summary))
        self.console.print(checks_text(run.diagnostics), soft_wrap=True)
        self.console.print(f"records, summary and picture: {shown(str(run.folder))}", soft_wrap=True)

    @property
    def exit_reason(self) -> str | None:
        """Why the evaluation is incomplete or untrustworthy; None if it is neither or another process reports it."""
        if self.processes.lost:
            return "process 0 of the run is gone; the records so far are kept"
        if not self.processes.leads:
            return None
        return "stopped before all images were done; the records so far are kept" if self.stopped else self.fault

    @property
    def stopped(self) -> bool:
        """Whether images are left."""
        return self.run is None or not self.run.facts.complete

    @property
    def fault(self) -> str | None:
        """What is wrong with the complete run, None if nothing is."""
        assert self.run is not None
        facts = self.run.facts
        if facts.failed:
            return (
                f"{len(facts.failed)} of {facts.num_images} images failed and are in no number; summary.json says why"
            )
        if not self.run.is_consistent:
            return "the run contradicts itself, see its consistency checks; none of its numbers can be trusted"
        return None

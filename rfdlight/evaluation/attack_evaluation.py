"""The LightningModule that attacks a victim: Lightning's devices and processes around an `Evaluation`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path

from lightning.pytorch import LightningModule
from torch import nn

from rfdlight._io import plain_console
from rfdlight.attacks.base import Attack
from rfdlight.data.base import ImageData
from rfdlight.data.loaders import Batch
from rfdlight.defenses.base import Defense, undefended
from rfdlight.engine.criteria import criterion_named
from rfdlight.engine.oracle import Precision
from rfdlight.engine.query_counting import QueryCounting
from rfdlight.errors import UserError, shown
from rfdlight.evaluation.attack_checks import settle_eps
from rfdlight.evaluation.conclusion import conclude
from rfdlight.evaluation.config import EvaluationConfig
from rfdlight.evaluation.description import Subject
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.evaluation.interface import console_interface
from rfdlight.evaluation.processes import Processes, ReportedByLeader
from rfdlight.evaluation.run import Run
from rfdlight.evaluation.run_writer import RunWriter
from rfdlight.reporting.tables import audit_text, failures_text, run_table
from rfdlight.victims.import_path import maker_module
from rfdlight.victims.resolve import resolve_victim


class AttackEvaluation(LightningModule):
    """Attacks a victim, behind whatever defenses the trainer's callbacks are, and reports what it withstood.

    The trainer's `default_root_dir` gets a journal with one line per image as it finishes, and at the end
    `records.jsonl`, `summary.json`, `curves.png` and `images.safetensors`. An image that cannot be read, or on
    which the victim raises, or answers NaN or infinity, is left out, and `summary.json` says why.

    The processes of a trainer with several devices draw the images, a few at a time, from one store, so that each image
    is attacked once, by whoever is free. Process 0 alone keeps the directory and talks to the user; all others write
    their own files in its journal, so that they must see it.

    `on_ready`, if set, is called once, in process 0, when everything that can be wrong has been checked and the
    directory is this run's. `resume`, if set to True, continues the run that the directory holds. After the test,
    `run` holds the result.

    Args:
        victim: A shipped name, the path of a victim card, `timm:NAME`, or an import path; by default the
            data's own victim.
        checkpoint: A safetensors file with weights for a victim that is no card.
        attack: The attacker.
        budget: Billed queries per image, >= 0.
        criterion: Success criterion: "sequential" (the default, Definition 1 of the paper with a bound on wrong
            successes), "paper", "single", "never", or the import path of a `SuccessCriterion`.
        query_counting: "exact" bills what the attacker uses and never exceeds the budget by one; "paper" bills, wastes
            and exceeds as the paper's code does, and lets the queries leave [0, 1] where it does.
        eot: Evaluations that each query averages (expectation over transformation), >= 1: the mean of the logits
            for attacks that read scores, the most frequent label for the others; all are billed.
        defended: False switches every defense off.
        final_evaluations: Fresh draws at every image's final point, >= 2.
        batch_size: Rows per forward pass, from 1 to 65,536, halved whenever memory runs out in one; by default at most
            64, and no more than half of the images of each process, so that few rows are padding.
        pool_size: Images in the pool, >= 1; by default up to twice the batch size, as many as keep forward passes full.
            One process of a run that is given a number, or whose pool holds all images, begins with so many: they end
            together, so fewer passes are padded at the end, but a run that is killed begins so many anew.
        memory: Bound on what the images in the pool take up, in GB of 10^9 bytes; fewer than `pool_size` are then in
            work at a time. The victim's forward passes, of `batch_size` images, come on top.
        precision: Of the attack's forward passes; the criterion decides in float32 always. The rounding of bfloat16
            hides small changes of the scores from an attack that reads them, which weakens it.
        channels_last: Run the victim in channels-last memory, usually faster.
        keep_images: Images whose pixels, clean and at their final points, are stored for people to look at, >= 0.
        sanity_checks: Check the run by small attacks with a known outcome at its end, see
            `rfdlight.evaluation.sanity_checks`.
        seed: Of the attack's and the victim's randomness.

    Raises:
        UserError: If a number is out of range, there is no attack, or the criterion has no rule for it.
    """

    victim: nn.Module

    def __init__(
        self,
        victim: str | None = None,
        checkpoint: str | None = None,
        attack: Attack | None = None,
        budget: int = 1000,
        criterion: str = "sequential",
        query_counting: QueryCounting = "exact",
        eot: int = 1,
        defended: bool = True,
        final_evaluations: int = 100,
        batch_size: int | None = None,
        pool_size: int | None = None,
        memory: float = 4.0,
        precision: Precision = "float32",
        channels_last: bool = True,
        keep_images: int = 16,
        sanity_checks: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if attack is None:
            raise UserError("an attack is needed: --attack NAME")
        self.config = EvaluationConfig(
            budget=budget,
            criterion=criterion,
            query_counting=query_counting,
            eot=eot,
            final_evaluations=final_evaluations,
            batch_size=batch_size,
            pool_size=pool_size,
            memory=memory,
            precision=precision,
            channels_last=channels_last,
            keep_images=keep_images,
            sanity_checks=sanity_checks,
            seed=seed,
        )
        criterion_named(criterion).check(attack)
        self.victim_spec = victim
        self.checkpoint = checkpoint
        self.attack = attack
        self.defended = defended
        self.resume = False
        self.run: Run | None = None
        self.console = plain_console()
        self.processes = Processes()
        self.on_ready: Callable[[], None] = lambda: None
        self._open = ExitStack()

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

    def setup(self, stage: str) -> None:
        """Load the victim and take the run directory."""
        self.processes = Processes(self.trainer.global_rank, self.trainer.world_size)
        self.console.quiet = not self.processes.leads
        try:
            self._take_signals()
            self.victim, card, text = resolve_victim(
                self.victim_spec, self.checkpoint, self.data, self.config.batch_size
            )
            self.attack = settle_eps(self.attack, self.data)
            subject = Subject(
                self.victim,
                text,
                self.data,
                self.attack,
                self.defenses,
                card=card,
                maker=maker_module(self.victim_spec),
            )
            writer = RunWriter(Path(self.trainer.default_root_dir), self.resume, self.processes)
            self._open.callback(writer.close)
            self._evaluation = Evaluation(
                subject,
                self.config,
                self.device,
                writer=writer,
                processes=self.processes,
                interface=console_interface(self.console),
                on_ready=self.on_ready,
            )
        except BaseException as error:
            self._close(error)
            raise

    def _take_signals(self) -> None:
        """Have Ctrl-C and SIGTERM stop the run and keep its finished images.

        Lightning's own handler, which would replace these, waits for the other processes.
        """
        self.trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        for number in (signal.SIGINT, signal.SIGTERM):
            self._open.callback(signal.signal, number, signal.signal(number, lambda *_: self.processes.stop()))

    def on_test_start(self) -> None:
        """Attack all images and report; the trainer's own loop then finds no batch left."""
        self._evaluation.device = self.device
        try:
            with nullcontext() if self.defended else undefended():
                self._evaluation.run()
                if self.processes.leads:
                    self.run = conclude(self._evaluation)
                    self._report(self.run)
        except BaseException as error:
            self._close(error)
            raise
        self._open.close()

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Do nothing: Lightning requires a test step, but `on_test_start` has attacked all images."""

    def _close(self, error: BaseException) -> None:
        """Restore terminal, files and signals after a failure, which only process 0 reports."""
        self.processes.fail(error)
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
        self.console.print(audit_text(run.diagnostics), soft_wrap=True)
        self.console.print(f"records, summary and picture: {shown(str(run.folder))}", soft_wrap=True)

"""The evaluation of a victim under attack."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from rich.console import Console
from torch import Tensor, nn

from rfdlight import whole_files
from rfdlight.attacks.base import Attack
from rfdlight.data.base import Batch, ImageData
from rfdlight.data.conversion import check_batch, unit_range
from rfdlight.defenses.base import Defense, undefended
from rfdlight.engine.engine import Accounting, Engine
from rfdlight.engine.judge import Judge, Rule
from rfdlight.engine.oracle import Oracle, Precision, check_pixels
from rfdlight.errors import UserError
from rfdlight.modules.attack_card import attack_card
from rfdlight.modules.processes import Processes, ToldElsewhere
from rfdlight.modules.progress import ProgressDisplay
from rfdlight.modules.run_book import RunBook
from rfdlight.modules.starts import find_starts
from rfdlight.names import short_name
from rfdlight.protocol.controls import Controls
from rfdlight.protocol.identity import identity
from rfdlight.protocol.short_attack import settle_eps
from rfdlight.results import figures, plots
from rfdlight.results.audit import audit
from rfdlight.results.records import Record
from rfdlight.results.summary import stands_at, summarize
from rfdlight.results.tables import audit_text, failures_text, run_table
from rfdlight.victims.resolve import maker_module, resolve_victim
from rfdlight.victims.weights import weights_digest

BATCH_SIZE = 64
"""Rows per forward pass where nothing else is asked for."""


class AttackEvaluation(LightningModule):
    """Attacks a victim, behind whatever defenses the trainer's callbacks are, and reports what it withstood.

    The trainer's `default_root_dir` gets a journal with one line per image as it finishes, and at the end
    `records.jsonl`, `summary.json`, `curves.png` and `images.safetensors`. An image that cannot be read, or on
    which the victim raises, or answers NaN or infinity, is left out, and `summary.json` says why.

    The processes of a trainer with several devices draw the images, a few at a time, from one store, so that each image
    is attacked once, by whoever is free. Process 0 alone keeps the directory and talks to the user; all others write
    their own files in its journal, so that they must see it.

    `on_ready`, if set, is called once, in process 0, when everything that can be wrong has been checked and the
    directory is this run's. If `resume` is set to True, the run that the directory holds is gone on with.

    Args:
        victim: A shipped name, the path of a victim card, `timm:NAME`, or an import path; by default the
            data's own victim.
        checkpoint: A safetensors file with weights for a victim that is no card.
        attack: The attacker.
        budget: Billed queries per image, >= 0.
        judge: Which rule calls an image broken: "sequential" (the default, Definition 1 of the paper with
            stated error), "paper", "single" or "never".
        accounting: "exact" bills what the attacker uses and never exceeds the budget by one; "paper" bills, wastes
            and exceeds as the paper's code does, and lets the queries leave [0, 1] where it does.
        eot: Evaluations that each query averages (expectation over transformation), >= 1: the mean of the logits
            for attacks that read scores, the most frequent label for the others; all are billed.
        defended: False switches every defense off.
        final_draws: Fresh draws at every image's final point, >= 2.
        batch_size: Rows per forward pass, halved whenever memory runs out in one.
        slots: Images in the pool, >= 1; by default up to twice the batch size, as many as keep forward passes full.
            One process of a run that is given a number begins with so many: they end together, so fewer passes are
            padded at the end, but a run that is killed begins so many anew.
        memory: Bound on what the images in the pool take up, in GB of 10^9 bytes; fewer than `slots` are then in
            work at a time. The victim's forward passes, of `batch_size` images, come on top.
        precision: Of the attack's forward passes; the judge decides in float32 always. The rounding of bfloat16 hides
            small changes of the scores from an attack that reads them, which weakens it.
        channels_last: Run the victim in channels-last memory, usually faster.
        keep_images: Images whose pixels, clean and at their final points, are stored for people to look at, >= 0.
        controls: Check the run by small attacks with a known outcome at its end, see `rfdlight.protocol.controls`.
        seed: Of the attack's and the victim's randomness.

    Raises:
        UserError: If a number is out of range, there is no attack, or the judge has no rule for it.
    """

    victim: nn.Module
    _engine: Engine

    def __init__(
        self,
        victim: str | None = None,
        checkpoint: str | None = None,
        attack: Attack | None = None,
        budget: int = 1000,
        judge: Rule = "sequential",
        accounting: Accounting = "exact",
        eot: int = 1,
        defended: bool = True,
        final_draws: int = 100,
        batch_size: int = BATCH_SIZE,
        slots: int | None = None,
        memory: float = 4.0,
        precision: Precision = "float32",
        channels_last: bool = True,
        keep_images: int = 16,
        controls: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("budget", budget, 0),
            ("final_draws", final_draws, 2),
            ("batch_size", batch_size, 1),
            ("slots", 1 if slots is None else slots, 1),
            ("eot", eot, 1),
            ("keep_images", keep_images, 0),
        ):
            if value < least:
                raise UserError(f"model.{name} must be at least {least}, got {value}")
        if eot > batch_size:
            raise UserError(f"model.eot must be at most model.batch_size, {batch_size}, got {eot}")
        if attack is None:
            raise UserError("an attack is needed: --attack NAME")
        if judge == "paper" and attack.reads == "gradients":
            raise UserError("model.judge paper has no rule for attacks that read gradients; leave it at sequential")
        self.victim_spec = victim
        self.checkpoint = checkpoint
        self.attack = attack
        self.budget = budget
        self.judge = Judge(judge, final_draws)
        self.accounting = accounting
        self.eot = eot
        self.defended = defended
        self.batch_size = batch_size
        self.slots = 2 * batch_size if slots is None else slots
        self._in_step = slots is not None
        if not 0 < memory < float("inf"):
            raise UserError(f"model.memory must be a positive number of GB, got {memory}")
        self.memory = memory
        self.precision = precision
        self.channels_last = channels_last
        self.keep_images = keep_images
        self.controls = controls
        self.seed = seed
        self.resume = self.complete = False
        self.sound = True
        self.console = Console()
        self.failed: dict[str, str] = {}
        self.processes = Processes()
        self._progress = [0, 0]
        self._running = False
        self._open = ExitStack()
        self._attacking = ExitStack()
        self.on_ready: Callable[[], None] = lambda: None

    @property
    def data(self) -> ImageData:
        """The data module that the trainer was given."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def defenses(self) -> list[Defense]:
        """The trainer's callbacks that are defenses, in order; none if they are switched off."""
        if not self.defended:
            return []
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in callbacks if isinstance(callback, Defense)]

    def setup(self, stage: str) -> None:
        """Load the victim, settle what was left open, and agree with the other processes on what is to be done."""
        self.processes = Processes(self.trainer.global_rank, self.trainer.world_size)
        self.console.quiet = not self.processes.leads
        with self._closing_on_error():
            self._take_signals()
            self.victim, self._victim_card, self.victim_text = resolve_victim(
                self.victim_spec, self.checkpoint, self.data
            )
            settle_eps(self.attack, self.data)
            self.threat = self.attack.threat
            self._weights = weights_digest(self.victim)
            self._book = RunBook(Path(self.trainer.default_root_dir), self.resume, self.processes)
            self._open.callback(self._book.close)
            past = self._book.past.records
            self._progress = [len(past), sum(stands_at(record, self.budget) for record in past)]
            self._unfinished = len(self.data.attacked()) - len(self._book.finished)
            self.data.share(self._book.finished, partial(self.processes.deal, most=self.batch_size))
            self.processes.agree()

    def _take_signals(self) -> None:
        """Have Ctrl-C and SIGTERM stop the run with what it has.

        Lightning's own handler, which it would put in the place of these, waits for the other processes.
        """
        self.trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        for number in (signal.SIGINT, signal.SIGTERM):
            self._open.callback(signal.signal, number, signal.signal(number, lambda *_: self.processes.stop()))

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Hand a batch to the engine, and tick until it wants more."""
        with self._closing_on_error(), self._switched():
            x, y, ids = check_batch(batch)
            check_pixels(x)
            if not self._running:
                self._start(x)
            self._engine.submit(x, y, ids)
            self._engine.run(hold=self._hold())

    def on_test_epoch_end(self) -> None:
        """Attack what is left, and report."""
        with self._closing_on_error(), self._switched():
            if not self._running:  # nothing was left for this process
                first = unit_range(self.data.attacked().read([0]))
                self._start(first.to(self.device))
            self._engine.run()
            self._attacking.close()
            if self.processes.leads:
                self._report()
            self._open.close()

    def _hold(self) -> int:
        """Return how many images this process keeps in work before it asks for more.

        Where others could attack what is left, no more than one forward pass of them: then each gets a query in every
        pass, and the last process ends within one image's attack after the others.
        """
        alone = self.processes.size == 1
        many = self.processes.left(self._unfinished) >= self.processes.size * self.batch_size
        return self._engine.slots if alone or many else self.batch_size

    def _report(self) -> None:
        folder, past = self._book.folder, self._book.past
        planned = {*self.data.attacked().ids, *self.data.unreadable_images}
        foreign = sum(record["id"] not in planned for record in past.records)
        self.failed = past.failed
        self.complete = len(past.records) - foreign + len(past.failed) == len(planned)
        facts = self._facts() | {"foreign": foreign, "controls": self._controls(past.records)}
        findings = audit(past.records, facts)
        self.sound = all(finding.state != "fail" for finding in findings)
        summary = summarize(past.records, facts) | {"audit": [asdict(finding) for finding in findings]}
        whole_files.write(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        if self.failed:
            self.console.print(failures_text(self.failed, self.data.num_images), soft_wrap=True)
        if not past.records:
            return
        figures.save(plots.draw_curves([(folder.name, past.records, self.budget)]), folder / "curves.png", ["png"])
        self.console.print(run_table(summary))
        self.console.print(audit_text(findings), soft_wrap=True)
        self.console.print(f"records, summary and picture: {folder}")

    def _controls(self, records: list[Record]) -> dict[str, Any]:
        """Make the control attacks, if the run was not stopped and is to make any."""
        if not (self.controls and records and self.complete):
            return {}
        controls = Controls(self.victim, self._engine, self.device, self.channels_last, lambda: self.processes.stopping)
        return controls.run(self.data.attacked(), records)

    def _start(self, x: Tensor) -> None:
        """Look at the victim, print the attack card and open the run, in this order; the defenses are in place."""
        self._attacking = self._open.enter_context(ExitStack())
        self._oracle = Oracle(
            self.victim,
            self.batch_size,
            seed=self.seed,
            precision=self.precision,
            channels_last=self.channels_last,
            any_pixels=self.accounting == "paper",
            rank=self.processes.rank,
            attempt=self._book.attempt,
            least=self.eot,
            on_smaller=lambda rows: self.console.print(f"memory ran out: forward passes of {rows} images from here on"),
        )
        self._attacking.callback(self._oracle.close)
        declared = any(defense.is_random for defense in self.defenses)
        self._random = {"declared": declared, "measured": self._oracle.is_random(x)}
        starts = None
        if self.attack.targeted and self.attack.needs_start:
            starts = find_starts(self._oracle, self.data.images("test"), self.data.num_classes, x.device)
        self._engine = Engine(
            self._oracle,
            self.attack,
            classes=self.data.num_classes,
            budget=self.budget,
            slots=self.slots,
            in_step=self._in_step and self.processes.size == 1,
            judge=self.judge,
            seed=self.seed,
            accounting=self.accounting,
            eot=self.eot,
            starts=starts,
            deterministic=not any(self._random.values()),
            on_record=self._on_record,
            on_point=self._book.point,
            on_failure=self._book.failure,
            stop=self._tick,
        )
        self._engine.ledger.pad(self._oracle.forwarded)
        self._engine.bound_memory(self.memory, x[:1])
        self._book.begin(self._identity(), self.on_ready, (self.data.attacked().ids, self.keep_images))
        for image_id, reason in self.data.unreadable_images.items() if self.processes.leads else ():
            self._book.failure(image_id, reason)
        self.console.print(attack_card(self._settings(), self.attack, self._engine.slots))
        self._display = ProgressDisplay(self.console, self.data.num_images)
        self._attacking.callback(self._display.close)
        oracle, ledger = self._oracle, self._engine.ledger
        self._attacking.callback(lambda: self._book.end(ledger.total, oracle.forwarded, oracle.batch_size, self._tick))
        self._running = True

    def _switched(self) -> AbstractContextManager[None]:
        """Switch the defenses off if that was asked for."""
        return nullcontext() if self.defended else undefended()

    @contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        """Leave terminal, files and signals as they were when something fails; Lightning has no hook for it."""
        try:
            yield
        except BaseException as error:
            self.processes.fail(error)
            self._open.close()
            if isinstance(error, UserError) and not (self.processes.leads or self.processes.lost):
                raise ToldElsewhere(str(error)) from error
            raise

    def _on_record(self, record: Record) -> None:
        self._book.record(record)
        self._progress[0] += 1
        self._progress[1] += stands_at(record, self.budget)

    def _tick(self) -> bool:
        total = self._engine.ledger.total
        self._display.update(*self.processes.look([*self._progress, total["attack"] + total["gradient"]]))
        return self.processes.stopping

    def _identity(self) -> dict[str, Any]:
        """What an attempt must have in common with the earlier ones."""
        schedules = [getattr(defense, "schedule", None) for defense in self.defenses]
        made_by = maker_module(self.victim_spec)
        parts = [part for part in (self.attack, self.data, *self.defenses, *schedules, made_by) if part is not None]
        facts = {**self._settings(), "deterministic": self._engine.deterministic}
        found = identity(self.victim, self.data.attacked(), parts, facts)
        if found["weights"] != self._weights:
            raise UserError("the victim's weights were changed after they were loaded; rfdlight test changes none")
        return found

    def _facts(self) -> dict[str, Any]:
        """What is true of the run as a whole, over all attempts."""
        past = self._book.past
        return {
            "name": self._book.folder.name,
            **self._settings(),
            "deterministic": self._engine.deterministic,
            "complete": self.complete,
            "failed": self.failed,
            "card": self._expected(),
            "random": self._random,
            "forwarded": past.forwarded,
            "processes": self.processes.size,
            "batch_size_used": past.batch_size,
            "totals": dict(past.totals),
            "wall_seconds": past.seconds,
            "attempts": past.attempts,
            "killed_attempts": past.killed,
            "damaged_lines": past.damaged,
        }

    def _settings(self) -> dict[str, Any]:
        """What was asked for."""
        return {
            "data": self.data.name,
            "num_images": self.data.num_images,
            "selection": self.data.selection,
            "victim": self.victim_text,
            "defense": "; ".join(defense.describe(self.victim) for defense in self.defenses) or "none",
            "attack": short_name("attack", type(self.attack)),
            "options": self.attack.options(),
            "norm": self.threat.norm,
            "eps": self.threat.eps,
            "budget": self.budget,
            "judge": self.judge.rule,
            "accounting": self.accounting,
            "eot": self.eot,
            "targeted": self.attack.targeted,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def _expected(self) -> dict[str, int] | None:
        """What the victim's card says of its accuracy on this data set, undefended."""
        card = self._victim_card
        if card is None or card.data != self.data.name:
            return None
        return {"correct": card.clean_correct, "total": card.clean_total}

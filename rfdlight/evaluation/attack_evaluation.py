"""The evaluation of a victim under attack."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from rfdlight import _io
from rfdlight._io import plain_console
from rfdlight.attacks.base import Attack
from rfdlight.core.registry import short_name
from rfdlight.data.base import Batch, ImageData, loader
from rfdlight.data.conversion import check_batch, unit_range
from rfdlight.defenses.base import CHECKED_ON, Defense, undefended
from rfdlight.engine.criterion import Rule, SuccessCriterion
from rfdlight.engine.engine import Engine, QueryCounting
from rfdlight.engine.failures import RandomVictim
from rfdlight.engine.oracle import Oracle, Precision, check_pixels
from rfdlight.engine.passes import LARGEST, rows_per_pass
from rfdlight.engine.probe import probe
from rfdlight.errors import UserError, shown
from rfdlight.evaluation.banner import run_banner
from rfdlight.evaluation.clean_check import clean_accuracy_warning
from rfdlight.evaluation.fingerprint import identity
from rfdlight.evaluation.processes import Processes, ReportedByLeader
from rfdlight.evaluation.progress import ProgressDisplay, Tally
from rfdlight.evaluation.run_writer import RunWriter
from rfdlight.evaluation.sanity_checks import SanityChecks
from rfdlight.evaluation.short_attack import settle_eps
from rfdlight.evaluation.starting_points import find_starting_points
from rfdlight.records.consistency_checks import audit
from rfdlight.records.records import Record
from rfdlight.records.summary import is_robust_at, summarize
from rfdlight.reporting import figures, plots
from rfdlight.reporting.tables import audit_text, failures_text, run_table, run_title
from rfdlight.victims.resolve import maker_module, other_data_warning, resolve_victim
from rfdlight.victims.weights import weights_digest

_PROBABILITIES = (
    "the victim answers with probabilities: their margins lose precision, and their mean is not that of the logits; "
    "remove the softmax at its end"
)


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
        criterion: Which rule calls an image broken: "sequential" (the default, Definition 1 of the paper with
            stated error), "paper", "single" or "never".
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
    _engine: Engine

    def __init__(
        self,
        victim: str | None = None,
        checkpoint: str | None = None,
        attack: Attack | None = None,
        budget: int = 1000,
        criterion: Rule = "sequential",
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
        for name, value, least in (
            ("budget", budget, 0),
            ("final_evaluations", final_evaluations, 2),
            ("batch_size", 1 if batch_size is None else batch_size, 1),
            ("pool_size", 1 if pool_size is None else pool_size, 1),
            ("eot", eot, 1),
            ("keep_images", keep_images, 0),
        ):
            if value < least:
                raise UserError(f"model.{name} must be at least {least}, got {value}")
        rows = LARGEST if batch_size is None else batch_size
        if rows > LARGEST:
            raise UserError(f"model.batch_size must be at most {LARGEST:,} rows, got {rows}")
        if eot > rows:
            raise UserError(f"model.eot must be at most model.batch_size, {rows}, got {eot}")
        if attack is None:
            raise UserError("an attack is needed: --attack NAME")
        if criterion == "paper" and attack.access == "gradient":
            raise UserError("model.criterion paper has no rule for attacks that read gradients; leave it at sequential")
        self.victim_spec = victim
        self.checkpoint = checkpoint
        self.attack = attack
        self.budget = budget
        self.criterion = SuccessCriterion(criterion, final_evaluations)
        self.query_counting = query_counting
        self.eot = eot
        self.defended = defended
        self.batch_size = batch_size
        self.pool_size = pool_size
        if not 0 < memory < float("inf"):
            raise UserError(f"model.memory must be a positive number of GB, got {memory}")
        self.memory = memory
        self.precision = precision
        self.channels_last = channels_last
        self.keep_images = keep_images
        self.sanity_checks = sanity_checks
        self.seed = seed
        self.resume = self.complete = False
        self.sound = True
        self.console = plain_console()
        self.failed: dict[str, str] = {}
        self._clean_accuracy_warning: str | None = None
        self.processes = Processes()
        self._done = self._robust = self._settled = 0
        self._taken: list[str] = []
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
                self.victim_spec, self.checkpoint, self.data, self.batch_size
            )
            self.attack = settle_eps(self.attack, self.data)
            self.threat = self.attack.threat
            self._weights = weights_digest(self.victim, attributes=False)
            self._writer = RunWriter(Path(self.trainer.default_root_dir), self.resume, self.processes)
            self._open.callback(self._writer.close)
            past = self._writer.past.records
            self._done, self._robust = len(past), sum(is_robust_at(record, self.budget) for record in past)
            images = len(self.data.attacked())
            self._unfinished = images - len(self._writer.finished)
            self.rows = self._agreed_rows(images)
            self.data.share(self._writer.finished, partial(self.processes.deal, most=self.rows))
            self.processes.agree()

    def rows_for(self, images: int, processes: int) -> int:
        """Return the rows of a forward pass: the given number, or as many as so many images keep full."""
        return self.batch_size or rows_per_pass(images, self.eot, processes)

    def pool_size_for(self, rows: int) -> int:
        """Return how many images the pool takes: the given number, or two passes of them."""
        return 2 * rows if self.pool_size is None else self.pool_size

    def _agreed_rows(self, images: int) -> int:
        """Return the rows of a forward pass in every process and every attempt at the run."""
        if self.processes.leads:
            before = self._writer.begun.get("batch_size") if self.batch_size is None else None
            resumed = before if type(before) is int and self.eot <= before <= LARGEST else None
            self.processes.tell("rows", resumed or self.rows_for(images, self.processes.size))
        rows: int = self.processes.hear("rows")
        return rows

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
                for defense in self.defenses:
                    defense.check_effect(self.victim, x[:CHECKED_ON])
                self._start(x)
            self._taken += ids
            self._engine.submit(x, y, ids)
            self._run_engine(low_watermark=self._low_watermark())

    def on_test_epoch_end(self) -> None:
        """Attack what is left, and report."""
        with self._closing_on_error(), self._switched():
            if not self._running:  # nothing was left for this process
                first = unit_range(self.data.attacked().read([0]))
                self._start(first.to(self.device))
            self._run_engine()
            self._attacking.close()
            if self.processes.leads:
                self._report()
            self._open.close()

    def _run_engine(self, low_watermark: int = 0) -> None:
        """Attack until more images are wanted; begin again, once, where the victim turns out to be random."""
        try:
            self._engine.run(low_watermark)
            if not low_watermark and self._engine.deterministic and self.processes.size > 1:
                self.processes.await_all(self._tick)  # another process may still find it random
        except RandomVictim as found:
            self._begin_again(found)

    def _begin_again(self, found: RandomVictim) -> None:
        """Attack all images of this process anew, behind a victim that is judged as random."""
        self._random["revealed"] = found.image_id
        self.console.print(
            f"the victim is random: it answered the same point of {found.image_id} differently; the "
            f"{self._done} finished images are attacked anew",
            soft_wrap=True,
        )
        self.processes.tell("random", found.image_id)
        self._writer.random()
        self._engine.begin_again()
        self._done = self._robust = self._settled = 0
        ids = self.data.attacked().ids
        again = {*self._taken, *(self._writer.finished if self.processes.leads else ())}
        images = self.data.attacked().take([position for position, name in enumerate(ids) if name in again])
        batches = loader(images, self._oracle.batch_size) if again else ()
        self._engine.attack_all((x.to(self.device), y.to(self.device), names) for x, y, names in batches)

    def _low_watermark(self) -> int:
        """Return how many images this process keeps in work before it asks for more.

        Where others could attack what is left, no more than one forward pass of them: then each gets a query in every
        pass, and the last process ends within one image's attack after the others.
        """
        alone = self.processes.size == 1
        many = self.processes.left(self._unfinished) >= self.processes.size * self.rows
        return self._engine.pool_size if alone or many else self.rows

    def _report(self) -> None:
        folder, past = self._writer.folder, self._writer.past
        planned = {*self.data.attacked().ids, *self.data.unreadable_images}
        foreign = sum(record["id"] not in planned for record in past.records)
        self.failed = past.failed
        self.complete = len(past.records) - foreign + len(past.failed) == len(planned)
        facts = self._facts() | {"foreign": foreign, "sanity_checks": self._sanity_checks(past.records)}
        findings = audit(past.records, facts)
        self.sound = all(finding.state != "fail" for finding in findings)
        summary = summarize(past.records, facts) | {"consistency_checks": [asdict(finding) for finding in findings]}
        _io.write_file(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        if self.failed:
            self.console.print(failures_text(self.failed, self.data.num_images), soft_wrap=True)
        if not past.records:
            return
        curve = plots.draw_curves([(folder.name, past.records, self.budget)], title=run_title(facts))
        figures.save(curve, folder / "curves.png", ["png"])
        self.console.print(run_table(summary))
        self.console.print(audit_text(findings), soft_wrap=True)
        self.console.print(f"records, summary and picture: {shown(str(folder))}", soft_wrap=True)

    def _sanity_checks(self, records: list[Record]) -> dict[str, Any]:
        """Make the control attacks, if the run was not stopped and is to make any."""
        if not (self.sanity_checks and records and self.complete):
            return {}
        sanity_checks = SanityChecks(
            self.victim, self._engine, self.device, self.channels_last, lambda: self.processes.stopping
        )
        return sanity_checks.run(self.data.attacked(), records)

    def _start(self, x: Tensor) -> None:
        """Look at the victim, print the attack card and open the run, in this order; the defenses are in place."""
        self._attacking = self._open.enter_context(ExitStack())
        self._oracle = Oracle(
            self.victim,
            self.rows,
            seed=self.seed,
            precision=self.precision,
            channels_last=self.channels_last,
            any_pixels=self.query_counting == "paper",
            rank=self.processes.rank,
            attempt=self._writer.attempt,
            least=self.eot,
            on_smaller=lambda rows: self.console.print(f"memory ran out: forward passes of {rows} images from here on"),
            on_contiguous=lambda: self.console.print(
                "the victim fails in channels-last memory; it runs in contiguous memory, as with --model.channels_last "
                "false",
                soft_wrap=True,
            ),
        )
        self._attacking.callback(self._oracle.close)
        declared = any(defense.is_random for defense in self.defenses)
        self._behaviour = probe(self._oracle, x)
        self._random = {
            "declared": declared,
            "measured": self._behaviour.random,
            "batch_effect": self._behaviour.batch_effect,
            "revealed": "an earlier attempt" if self._writer.found_random else None,
        }
        cautions = self._cautions()
        starting_points = None
        if self.attack.targeted and self.attack.needs_starting_point:
            starting_points = find_starting_points(
                self._oracle, self.data.images("test"), self.data.num_classes, x.device
            )
        pool_size = self.pool_size_for(self.rows)
        self._engine = Engine(
            self._oracle,
            self.attack,
            classes=self.data.num_classes,
            budget=self.budget,
            pool_size=pool_size,
            lockstep=self.processes.size == 1
            and (self.pool_size is not None or len(self.data.attacked()) <= pool_size),
            criterion=self.criterion,
            seed=self.seed,
            query_counting=self.query_counting,
            eot=self.eot,
            starting_points=starting_points,
            deterministic=not any(self._random.values()),
            on_record=self._on_record,
            on_point=self._writer.point,
            on_failure=self._on_failure,
            stop=self._tick,
        )
        self._engine.ledger.pad(self._oracle.forwarded)
        if not self._engine.deterministic:
            self.processes.tell("random", None)
        self._engine.bound_memory(self.memory, x[:1])
        self._writer.begin(self._identity(), self.on_ready, (self.data.attacked().ids, self.keep_images))
        if not self._engine.deterministic:
            self._writer.random()
        for image_id, reason in self.data.unreadable_images.items() if self.processes.leads else ():
            self._on_failure(image_id, reason)
        self.console.print(run_banner(self._settings(), self._engine.attack, self._engine.pool_size, cautions))
        self._display = ProgressDisplay(self.console, self.data.num_images, self.budget)
        self._attacking.callback(self._display.close)
        self._attacking.callback(self._end)
        self._running = True

    def _cautions(self) -> list[str]:
        """Return what speaks against the victim and the data, before the first query."""
        if not self.processes.leads:
            return []
        self._clean_accuracy_warning = clean_accuracy_warning(
            self._oracle, self.data.attacked(), self.data.num_classes, self.device
        )
        if self._clean_accuracy_warning and self.defenses:
            self._clean_accuracy_warning += "; or the defense costs so much"
        probabilities = _PROBABILITIES if self._behaviour.probabilities else None
        found = (other_data_warning(self._victim_card, self.data), probabilities, self._clean_accuracy_warning)
        return [budget_warning for budget_warning in found if budget_warning is not None]

    def _end(self) -> None:
        oracle, engine = self._oracle, self._engine
        self._writer.end(engine.ledger.total, oracle.forwarded, oracle.batch_size, engine.in_progress, self._tick)

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
                raise ReportedByLeader(str(error)) from error
            raise

    def _on_record(self, record: Record) -> None:
        self._writer.record(record)
        self._done += 1
        self._robust += is_robust_at(record, self.budget)
        self._settled += record["attack"] + record["gradient"] + record["success_check"]

    def _on_failure(self, image_id: str, reason: str) -> None:
        self._writer.failure(image_id, reason)
        self._done += 1

    def _tick(self) -> bool:
        self.processes.look(self._tally)
        if self._display.due:
            self._display.update(self.processes.together(self._tally()))
        if self.processes.random and self._engine.deterministic:
            raise RandomVictim("an image of another process")
        return self.processes.stopping

    def _tally(self) -> tuple[int, ...]:
        """Return what this process has done, as `Tally` counts it."""
        total = self._engine.ledger.total
        queries = total["attack"] + total["gradient"] + total["success_check"]
        return Tally(self._done, self._robust, *self._engine.in_progress, queries, self._settled).counts

    def _identity(self) -> dict[str, Any]:
        """What an attempt must have in common with the earlier ones."""
        schedules = [getattr(defense, "schedule", None) for defense in self.defenses]
        made_by = maker_module(self.victim_spec)
        parts = [part for part in (self.attack, self.data, *self.defenses, *schedules, made_by) if part is not None]
        found = identity(self.victim, self.data.attacked(), parts, self._settings())
        if found["weights"] != self._weights:
            raise UserError("the victim's weights were changed after they were loaded; rfdlight test changes none")
        return found

    def _facts(self) -> dict[str, Any]:
        """What is true of the run as a whole, over all attempts."""
        past = self._writer.past
        return {
            "name": self._writer.folder.name,
            **self._settings(),
            "deterministic": self._engine.deterministic,
            "complete": self.complete,
            "failed": self.failed,
            "card": self._expected(),
            "classes": self._class_names(),
            "card_data": self._victim_card.data if self._victim_card else None,
            "num_classes": self.data.num_classes,
            "clean_accuracy_warning": self._clean_accuracy_warning,
            "random": self._random,
            "forwarded": past.forwarded,
            "processes": self.processes.size,
            "batch_size_used": past.batch_size,
            "totals": dict(past.totals),
            "wall_seconds": past.seconds,
            "attempts": past.attempts,
            "killed_attempts": past.killed,
            "damaged_lines": past.damaged,
            "in_progress": {"begun": past.in_progress[0], "robust": past.in_progress[1]},
        }

    def _settings(self) -> dict[str, Any]:
        """What was asked for."""
        return {
            "data": self.data.describe(),
            "num_images": self.data.num_images,
            "selection": self.data.selection,
            "victim": self.victim_text,
            "defense": "; ".join(defense.description(self.victim) for defense in self.defenses) or "none",
            "attack": short_name("attack", type(self.attack)),
            "options": self.attack.options(),
            "norm": self.threat.norm,
            "eps": self.threat.eps,
            "budget": self.budget,
            "criterion": self.criterion.rule,
            "query_counting": self.query_counting,
            "eot": self.eot,
            "targeted": self.attack.targeted,
            "precision": self.precision,
            "batch_size": self.rows,
            "seed": self.seed,
        }

    def _class_names(self) -> list[str] | None:
        """The names of the classes, which a user's own data may give in another form, or not for each class."""
        names = self.data.classes
        if not isinstance(names, Sequence) or isinstance(names, str) or len(names) != self.data.num_classes:
            return None
        return [str(name) for name in names]

    def _expected(self) -> dict[str, int] | None:
        """What the victim's card says of its accuracy on this data set, undefended."""
        card = self._victim_card
        if card is None or card.data != self.data.name:
            return None
        return {"correct": card.clean_correct, "total": card.clean_total}

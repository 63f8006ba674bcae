"""The evaluation loop: warnings before the attack, the attack on all images, the final run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import Any

import torch
from msgspec.structs import astuple, replace
from torch import Tensor

from rfdlight.data.conversion import unit_range
from rfdlight.data.loaders import Batch, loader
from rfdlight.engine.compilation import compile_seconds, is_worthwhile
from rfdlight.engine.config import LARGEST, EngineConfig, RunObserver, rows_per_pass
from rfdlight.engine.criteria import criterion_named
from rfdlight.engine.engine import Engine
from rfdlight.engine.failures import RandomVictim
from rfdlight.engine.oracle import Oracle, OracleConfig, check_pixels
from rfdlight.engine.pass_timing import PassChoice, PassTimer, choose, is_timed
from rfdlight.engine.probe import Behaviour, probe
from rfdlight.errors import UserError
from rfdlight.evaluation.clean_answers import clean_accuracy_warning, find_starting_points
from rfdlight.evaluation.config import EvaluationConfig, Passes, Subject
from rfdlight.evaluation.fingerprint import fingerprint
from rfdlight.evaluation.interface import SILENT, Interface, Tally, run_banner
from rfdlight.evaluation.processes import Processes
from rfdlight.evaluation.run_writer import MemoryWriter, RunWriter
from rfdlight.records.facts import InProgress, Randomness, Rows
from rfdlight.records.journal import End
from rfdlight.records.records import Record
from rfdlight.records.summary import is_robust_at
from rfdlight.victims.arrays import outside_torch
from rfdlight.victims.digest import identity_of, weights_digest
from rfdlight.victims.resolve import other_data_warning

_PROBABILITIES = (
    "the victim answers with probabilities: their margins lose precision, and their mean is not that of the logits; "
    "remove the softmax at its end, or give outputs='probabilities' to rfdlight.wrap, HTTPVictim or ONNXVictim"
)

_NO_TF32 = "tf32 is for CUDA devices and has no effect here: the attack runs in float32"


class Evaluation(RunObserver):
    """Attacks the images of one process, and writes down the results, by default in memory.

    `deterministic` None measures on the first images whether the victim is random. `on_ready` is called in process 0
    when the run directory is taken and nothing was written. `stopped` is read before every forward pass.
    """

    def __init__(
        self,
        subject: Subject,
        config: EvaluationConfig,
        *,
        writer: MemoryWriter | None = None,
        processes: Processes | None = None,
        interface: Interface = SILENT,
        deterministic: bool | None = None,
        starting_points: tuple[Tensor, Tensor] | None = None,
        on_ready: Callable[[], None] = lambda: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.subject = subject
        self.config = config
        self.processes = Processes() if processes is None else processes
        self.writer = MemoryWriter() if writer is None else writer
        self.clean_warning: str | None = None
        self.passes = Passes()  # of the run, once it has begun
        self.random = Randomness(declared=False, measured=False)
        self._interface = interface
        self._deterministic = deterministic
        self._starting_points = starting_points
        self._on_ready = on_ready
        self._stopped = stopped
        self._weights = weights_digest(subject.victim, attributes=False) if writer is not None else None
        past = self.writer.past.records
        self._done, self._robust = len(past), sum(is_robust_at(record, config.budget) for record in past)
        self._settled = 0
        self._taken: list[str] = []
        self._images = len(subject.data.attacked())
        self._unfinished = self._images - len(self.writer.finished)
        self._choice: PassChoice | None = None
        self._timed_rows = 0

    def run(self, device: torch.device) -> None:
        """Attack, on the device of the victim, all images that no other process and no earlier attempt attacks."""
        self.device = device
        data = self.subject.data
        self.passes = self._agreed_passes()
        data.share(self.writer.finished, partial(self.processes.chunks, most=self.passes.rows))
        self.processes.barrier()
        batches = self._batches()
        first = next(batches, None)
        with ExitStack() as stack:
            # Where nothing is left for this process, it starts with the first image of all.
            x = unit_range(data.attacked().read([0])).to(self.device) if first is None else first[0]
            self._start(x, stack)
            for x, y, ids in chain([] if first is None else [first], batches):
                self._taken += ids
                self.engine.submit(x, y, ids)
                self._attack(self._low_watermark())
            self._attack()

    def _agreed_passes(self) -> Passes:
        """Return the rows and the memory format of the passes in every process and every attempt at the run."""
        return Passes(*self.processes.agreed("passes", self._choose_passes))

    def _choose_passes(self) -> tuple[int, bool]:
        """Return rows and memory format of the settings, an earlier attempt or stage, a timing, or by default."""
        config, begun, processes = self.config, self.writer.begun, self.processes.size
        recorded = Passes.recorded(config, begun)
        channels_last = recorded.channels_last is not False
        if config.given_rows is not None:
            return config.given_rows, channels_last
        if begun and type(recorded.rows) is int and config.eot <= recorded.rows <= LARGEST:
            return recorded.rows, channels_last
        if (earlier := self.subject.passes) is not None:
            return rows_per_pass(self._images, config.eot, processes, earlier.rows), earlier.channels_last
        rows = rows_per_pass(self._images, config.eot, processes)
        self._choice = self._timed(rows)
        return (rows, channels_last) if self._choice is None else (self._choice.rows, self._choice.channels_last)

    def _timed(self, rows: int) -> PassChoice | None:
        """Choose rows and memory format by timing, None where too few queries are to come, or the victim fails."""
        config, processes = self.config, self.processes.size
        queries = config.most_queries(self._images) // processes
        if not is_timed(queries) or outside_torch(self.subject.victim) is not None:  # a server would get larger batches
            return None
        image = torch.rand(1, *self.subject.data.image_shape, generator=torch.Generator().manual_seed(0))
        image = image.to(self.device)
        oracle = OracleConfig(seed=config.seed, attempt=-1, precision=config.precision)
        image_bytes = self._bytes_per_image(image)
        pool = min(round(config.memory * 1e9) // image_bytes, config.pool_size or LARGEST)
        most = min(pool // 2, LARGEST) // config.eot * config.eot  # the pool holds two passes
        timer = PassTimer(
            self.subject.victim,
            image,
            oracle,
            gradients=self.subject.attack.access == "gradient",
            image_bytes=image_bytes,
        )
        try:
            return choose(
                timer,
                rows,
                most=rows_per_pass(self._images, config.eot, processes, most),
                images=self._images * config.eot / processes,
                queries=queries,
                step=config.eot,
                channels_last=None if config.channels_last == "auto" else config.channels_last,
            )
        finally:
            self._timed_rows = timer.forwarded

    def _bytes_per_image(self, image: Tensor) -> int:
        """Return the memory of an image like `image`, (1, C, H, W), in the pool, before its engine is made."""
        classes = self.subject.data.num_classes
        points = image.expand(classes, *image.shape[1:]), torch.arange(classes, device=image.device)
        oracle = Oracle(self.subject.victim, 1)
        try:
            return self._make_engine(oracle, points).bytes_per_image(image)
        finally:
            oracle.close()

    def _agreed_mode(self, x: Tensor) -> bool:
        """Compile the victim if every process and every attempt does; return whether it is compiled."""
        compiled, processes = self.subject.compiled, self.processes
        wanted = processes.agreed("compile", self._wants_compiled)
        made = wanted and compiled is not None and self._oracle.compile(x, compiled)
        processes.publish(f"compiled/{processes.rank}", made)
        ranks = range(processes.size)
        if not processes.agreed("compiled", lambda: all(processes.wait_for(f"compiled/{rank}") for rank in ranks)):
            self._oracle.run_eagerly()
        return self._oracle.is_compiled

    def _wants_compiled(self) -> bool:
        """Return whether the settings, an earlier attempt, or the queries to come want the victim compiled."""
        config, compiled = self.config, self.subject.compiled
        gradients, elsewhere = self.subject.attack.access == "gradient", identity_of(self.subject.victim) is not None
        if compiled is None or gradients or elsewhere or config.precision != "float32":
            if config.compile is True:
                self._interface.message(
                    "the victim runs eagerly, not compiled: that needs a network of torch, float32 and no gradients"
                )
            return False
        if self.writer.begun:
            return config.compile is not False and self.writer.begun.get("compiled") is True
        if config.compile != "auto":
            return config.compile
        if self._oracle.batch_size in compiled.rows:
            return True
        queries, takes = config.most_queries(self._unfinished) // self.processes.size, compile_seconds(compiled.victim)
        random = any(astuple(self.random))
        seconds = self._oracle.seconds_per_row
        if compiled.failure or not is_worthwhile(queries, seconds, takes, deterministic=not random):
            return False
        self._interface.message(f"up to {queries:,} queries: the victim is compiled first, some {takes:.0f} s")
        return True

    def _batches(self) -> Iterator[Batch]:
        for x, y, ids in self.subject.data.test_dataloader():
            check_pixels(x)
            yield x.to(self.device), y.to(self.device), ids

    def _attack(self, low_watermark: int = 0) -> None:
        """Attack until the pool takes more images; begin again, once, when the victim turns out to be random."""
        try:
            self.engine.run(low_watermark)
            if not low_watermark and self.engine.deterministic and self.processes.size > 1:
                self.processes.finish_together(self.stop)  # another process may still find it random
        except RandomVictim as found:
            self._begin_again(found)

    def _begin_again(self, found: RandomVictim) -> None:
        """Attack all images of this process anew, with the criterion of a random victim."""
        self.random = replace(self.random, revealed=found.image_id)
        self._interface.message(
            f"the victim is random: it answered the same point of {found.image_id} differently; the "
            f"{self._done} finished images are attacked anew"
        )
        self.processes.publish("random", found.image_id)
        self.writer.append(random=True)
        self.engine.begin_again()
        self._done = self._robust = self._settled = 0
        attacked = self.subject.data.attacked()
        again = {*self._taken, *(self.writer.finished if self.processes.leads else ())}
        images = attacked.take([position for position, name in enumerate(attacked.ids) if name in again])
        batches = loader(images, self._oracle.batch_size) if again else ()
        self.engine.attack_all((x.to(self.device), y.to(self.device), names) for x, y, names in batches)

    def _low_watermark(self) -> int:
        """Return the number of images under attack below which this process takes more.

        When other processes could attack the remaining images, it is one forward pass: each image then gets a query in
        every pass, and the last process ends within the attack on one image after the others.
        """
        alone = self.processes.size == 1
        many = self.processes.left(self._unfinished) >= self.processes.size * self.passes.rows
        return self.engine.pool_size if alone or many else self.passes.rows

    def _start(self, x: Tensor, stack: ExitStack) -> None:
        """Probe the victim, warn, open the run and show the banner, in this order."""
        config, interface = self.config, self._interface
        oracle = OracleConfig(
            seed=config.seed,
            rank=self.processes.rank,
            attempt=self.writer.attempt,
            precision=config.precision,
            channels_last=self.passes.channels_last,
            any_pixels=config.query_counting == "paper",
            least=config.eot,
        )
        self._oracle = Oracle(self.subject.victim, self.passes.rows, oracle, interface.message)
        stack.callback(self._oracle.close)
        behaviour = self._behaviour(x)
        if any(astuple(self.random)):
            self._oracle.allow_shorter_passes(x[:1])
        self.passes = Passes(self.passes.rows, self.passes.channels_last, self._agreed_mode(x))
        warnings = self._warnings(behaviour) if behaviour else []
        self.engine = self._make_engine(self._oracle, self._find_starting_points())
        self.engine.ledger.charge_checks(self._checked_rows + self._oracle.forwarded)
        if not self.engine.deterministic:
            self.processes.publish("random", None)
        self.engine.bound_memory(config.memory, x[:1])
        attacked = self.subject.data.attacked()
        if isinstance(self.writer, RunWriter):
            keep = len(attacked) if config.keep_images is None else config.keep_images
            self.writer.begin(self._fingerprint(), self._on_ready, attacked.ids, keep)
        if not self.engine.deterministic:
            self.writer.append(random=True)
        for image_id, reason in self.subject.data.unreadable_images.items() if self.processes.leads else ():
            self.on_failure(image_id, reason)
        settings = self.subject.settings(config, self.passes)
        chosen = None if self._choice is None else str(self._choice)
        interface.message(run_banner(settings, self.engine.attack, self.engine.pool_size, warnings, chosen))
        planned = self.subject.data.num_images, config.budget
        displays = interface.progress(*planned), self.writer.heartbeat(*planned)
        self._displays = [display for display in displays if display is not None]
        stack.callback(self._close_displays)
        stack.push(lambda kind, error, trace: self._end(error))

    def _behaviour(self, x: Tensor) -> Behaviour | None:
        """Measure whether the victim is random, unless the caller knows."""
        if self._deterministic is not None:
            self.random = Randomness(declared=not self._deterministic, measured=False)
            return None
        behaviour = probe(self._oracle, x)
        self.random = Randomness(
            declared=any(defense.is_random for defense in self.subject.defenses),
            measured=behaviour.random,
            batch_effect=behaviour.batch_effect,
            revealed="an earlier attempt" if self.writer.found_random else None,
        )
        return behaviour

    def _warnings(self, behaviour: Behaviour) -> list[str]:
        """Return warnings about the victim and the data, and pass them on."""
        if not self.processes.leads or self._interface is SILENT:
            return []
        data = self.subject.data
        self.clean_warning = clean_accuracy_warning(self._oracle, data.attacked(), data.num_classes, self.device)
        if self.clean_warning and self.subject.defenses:
            self.clean_warning += "; or the defense costs so much"
        probabilities = _PROBABILITIES if behaviour.probabilities else None
        rounding = _NO_TF32 if self.config.precision == "tf32" and self.device.type != "cuda" else None
        found = (other_data_warning(self.subject.card, data), rounding, probabilities, self.clean_warning)
        warnings = [warning for warning in found if warning is not None]
        for warning in warnings:
            self._interface.warning(warning)
        return warnings

    @property
    def _checked_rows(self) -> int:
        """Rows that checked and timed the victim before this evaluation's oracle was made."""
        return self.subject.checked_rows + self._timed_rows

    def _find_starting_points(self) -> tuple[Tensor, Tensor] | None:
        """Return the starting points of a targeted attack that needs some."""
        data, attack = self.subject.data, self.subject.attack
        if self._starting_points is None and attack.targeted and attack.needs_starting_point:
            return find_starting_points(self._oracle, data.images("test"), data.num_classes, self.device)
        return self._starting_points

    def _make_engine(self, oracle: Oracle, points: tuple[Tensor, Tensor] | None) -> Engine:
        config, data = self.config, self.subject.data
        pool_size = config.pool_size_for(self.passes.rows)
        together = config.pool_size is not None or len(data.attacked()) <= pool_size
        engine = EngineConfig(
            classes=data.num_classes,
            budget=config.budget,
            pool_size=pool_size,
            lockstep=self.processes.size == 1 and together,
            seed=config.seed,
            query_counting=config.query_counting,
            eot=config.eot,
            interim_queries=config.interim_queries,
            starting_points=points,
            deterministic=not any(astuple(self.random)),
            attacks_misclassified=config.attacks_misclassified,
            policy=self.subject.checked_policy(config),
        )
        criterion = criterion_named(config.criterion, config.final_evaluations, config.level)
        return Engine(oracle, self.subject.attack, criterion, engine, observer=self)

    def _fingerprint(self) -> dict[str, Any]:
        found = fingerprint_of(self.subject, self.config, self.passes)
        if found["weights"] != self._weights:
            raise UserError("the victim's weights were changed after they were loaded; rfdlight test changes none")
        return found

    def _end(self, error: BaseException | None) -> None:
        """End the attack of this process; the others hear of its error before they see it leave."""
        if error is not None:
            self.processes.report_failure(error)
        oracle, engine = self._oracle, self.engine
        begun, robust = engine.in_progress
        last = End(
            totals=Rows(**engine.ledger.total),
            forwarded=self._checked_rows + oracle.forwarded,
            batch_size=oracle.batch_size,
            in_progress=InProgress(begun=begun, robust=robust),
        )
        self.processes.send_last(self._tally())
        self.writer.end(last, self.stop)

    def on_record(self, record: Record) -> None:
        self.writer.append(record=record)
        self._done += 1
        self._robust += is_robust_at(record, self.config.budget)
        self._settled += record.queries

    def on_point(self, image_id: str, x: Tensor, point: Tensor) -> None:
        self.writer.point(image_id, x, point)

    def on_failure(self, image_id: str, reason: str) -> None:
        self.writer.append(failed=(image_id, reason))
        self._done += 1

    def stop(self) -> bool:
        self.processes.poll(self._tally)
        due = [display for display in self._displays if display.due]
        if due:
            tally = self._total()
            for display in due:
                display.update(tally)
        if self.processes.random and self.engine.deterministic:
            raise RandomVictim("an image of another process")
        return self.processes.stopping or self._stopped()

    def _close_displays(self) -> None:
        """Show the last counts, and close the displays."""
        tally = self._total()
        for display in self._displays:
            display.update(tally)
            display.close()

    def _total(self) -> Tally:
        """Return the counts of all processes, in process 0."""
        return Tally(*self.processes.total(self._tally()))

    def _tally(self) -> Tally:
        total = self.engine.ledger.total
        queries = total["attack"] + total["gradient"] + total["success_check"]
        return Tally(self._done, self._robust, *self.engine.in_progress, queries, self._settled)


def fingerprint_of(subject: Subject, config: EvaluationConfig, passes: Passes) -> dict[str, Any]:
    """Return the facts that every attempt at a run must share."""
    settings = subject.settings(config, passes)
    settings |= {"level": config.level, "attacks_misclassified": config.attacks_misclassified}
    if subject.surrogate is not None:
        settings["weights of the surrogate"] = weights_digest(subject.surrogate)
    return fingerprint(subject.victim, subject.data.attacked(), subject.code, settings)

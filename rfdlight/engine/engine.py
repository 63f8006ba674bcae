"""The loop that attacks many images at once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core import rng
from rfdlight.core.tensors import Columns, per_row, put, take
from rfdlight.engine.criterion import Judge, Phase
from rfdlight.engine.error_isolation import Triage
from rfdlight.engine.failures import RandomVictim
from rfdlight.engine.ledger import Ledger
from rfdlight.engine.oracle import Oracle
from rfdlight.engine.pool import Pool
from rfdlight.engine.probe import changed, near_boundary
from rfdlight.engine.query_step import Queries
from rfdlight.engine.record import Record, describe
from rfdlight.engine.scheduler import Turns
from rfdlight.engine.targets import draw_aims
from rfdlight.errors import UserError

Accounting = Literal["exact", "paper"]

_OWN = "attack's "
"""Sets an attack's columns apart from the engine's in the pool, so that their names cannot clash."""


def _refuse(image_id: str, reason: str) -> None:
    raise UserError(f"the victim fails on the image {image_id}: {reason}")


class Engine:
    """Runs an attack against an oracle: full forward passes, exact budgets, one record per image.

    An image passes through the phases of `rfdlight.engine.criterion.Phase`: draws at the clean image,
    queries, draws at its candidates, draws at its final point. Images in any phase share the pool; a
    tick is one forward pass, either of queries or of draws, and as long as images remain there are enough
    of one kind to fill it.

    An image on which the victim fails is taken out, see `rfdlight.engine.error_isolation.Triage`; it has no record.

    Args:
        oracle: Owns the victim.
        attack: Its `threat` is enforced here; its `accounting` and `repeats` are set.
        classes: Of the victim.
        budget: Billed queries per image, >= 0.
        slots: Images in the pool; with fewer than twice the oracle's batch size, forward passes may be padded.
        judge: Decides which images are broken.
        seed: Of the attacks.
        accounting: "exact" bills what the attacker uses and never exceeds the budget; "paper" bills, wastes and
            exceeds as the paper's code does, attack by attack, and records at most the budget.
        eot: Evaluations per query, at most the oracle's batch size: an attack that reads scores is answered
            their mean logits, one that reads labels the label that most of them have, and all are billed.
        in_step: Have as many images begin together as there are slots, and draw for the judge before others ask on:
            then images end together too, and few passes are padded at the end. Without, results come sooner.
        starts: Images (rows, C, H, W) of known classes (rows,), for an attack that needs a start; by default none.
        deterministic: Whether the victim answers the same every time. One evaluation then decides, and is repeated at
            every success and every final point: the first answer that differs raises `RandomVictim`.
        on_record: Called with each finished image's record.
        on_point: Called before that with its id, its clean pixels and its final point, (C, H, W) both.
        on_failure: Called with the id of each image on which the victim fails, and the reason; by default, that ends
            the run.
        stop: Looked at before every tick; when it returns True, the engine ends with what it has.
    """

    def __init__(
        self,
        oracle: Oracle,
        attack: Attack,
        *,
        classes: int,
        budget: int,
        slots: int,
        judge: Judge,
        seed: int = 0,
        accounting: Accounting = "exact",
        eot: int = 1,
        in_step: bool = False,
        starts: tuple[Tensor, Tensor] | None = None,
        deterministic: bool,
        on_record: Callable[[Record], None],
        on_point: Callable[[str, Tensor, Tensor], None] = lambda image_id, x, point: None,
        on_failure: Callable[[str, str], None] = _refuse,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.oracle = oracle
        self.attack = attack
        attack.accounting, attack.repeats = accounting, eot
        self.threat = attack.threat
        self.classes = classes
        self.budget = budget
        self.judge = judge
        self.seed = seed
        self.accounting = accounting
        self.eot = eot
        self.starts = starts
        self.deterministic = deterministic
        self.ledger = Ledger()
        self._on_record = on_record
        self._on_point = on_point
        self._on_failure = on_failure
        self._stop = stop
        self._triage = Triage(oracle, self.ledger)
        self._queries = Queries(oracle, self._triage, attack, eot)
        self._pool = Pool(slots)
        self._turns = Turns(in_step)
        self._queue: deque[tuple[Tensor, Tensor, str]] = deque()
        self._own: dict[str, str] = {}

    def submit(self, x: Tensor, y: Tensor, ids: list[str]) -> None:
        """Queue images: (rows, C, H, W) float32 in [0, 1], (rows,) int64 labels and their ids."""
        self._queue.extend(zip(x, y, ids, strict=True))
        self._refill()

    def run(self, hold: int = 0) -> None:
        """Tick until nothing is left, or only until images are wanted again.

        Args:
            hold: Return as soon as fewer images than that are in work and cannot fill a forward pass, or even if they
                can, where images are to keep in step.

        Raises:
            RandomVictim: If a deterministic victim is none; see `begin_again`.
        """
        hold = min(hold, self.slots)
        while (len(self._pool) or self._queue) and not self._stop():
            self._refill()
            ready = (self._pool.occupied("phase") == Phase.ATTACK).nonzero()[:, 0]
            wanted = int(self._pool.occupied("wanted").sum())
            full, queries = self.oracle.batch_size, self.oracle.batch_size // self.eot
            if len(self._pool) < hold and (self._turns.in_step or (len(ready) < queries and wanted < full)):
                return
            if self._turns.draw_next(len(ready), wanted, queries, full):
                self._draw()
            else:
                self._query(ready)

    def attack_all(self, batches: Iterable[tuple[Tensor, Tensor, list[str]]]) -> None:
        """Submit batches as the pool gets room for them, and tick until nothing is left; raises as `run` does."""
        for x, y, ids in batches:
            self.submit(x, y, ids)
            self.run(hold=self.slots)
        self.run()

    def begin_again(self) -> None:
        """Judge the victim as random from here on; all images are dropped, and have to be submitted anew."""
        self.deterministic = False
        self.ledger.discard()
        self._queue.clear()
        self._pool.clear()

    def bound_memory(self, gigabytes: float, x: Tensor) -> None:
        """Take no more images at a time than fit, before the first ones come.

        Args:
            gigabytes: Of 10^9 bytes, for the columns of the pool.
            x: An image, (1, C, H, W).

        Raises:
            UserError: If not even one batch fits, or as many as there are slots.
        """
        size, batch = self.bytes_per_image(x), min(self.oracle.batch_size, self.slots)
        slots = round(gigabytes * 1e9) // size
        if slots < batch:
            needed = math.ceil(size * batch / 1e6) / 1e3  # up to a whole MB, so that the number does
            raise UserError(
                f"model.memory must be at least {needed:g} GB for {batch} images in the pool, got "
                f"{gigabytes:g}; lower model.batch_size or raise it"
            )
        self._pool.shrink(slots)

    @property
    def slots(self) -> int:
        """How many images the pool takes at a time."""
        return self._pool.slots

    @property
    def under_way(self) -> tuple[int, int]:
        """How many images in work have their clean answer, and how many of these are right and robust so far."""
        if not len(self._pool):
            return 0, 0
        phase, margin, broken_at = (self._pool.occupied(name) for name in ("phase", "clean_margin", "broken_at"))
        begun = phase != Phase.CLEAN
        right = (margin > 0) | (self._evaluated(slice(0, len(self._pool))) > 0)
        return int(begun.sum()), int((begun & right & (broken_at < 0)).sum())

    def bytes_per_image(self, x: Tensor) -> int:
        """Return what an image like `x`, (1, C, H, W), takes up in the pool, in bytes."""
        columns = self._columns(x, torch.zeros(1, dtype=torch.int64, device=x.device), ["any"])
        return sum(column[0].numel() * column.element_size() for column in columns.values())

    def _refill(self) -> None:
        # No more at a time than a forward pass takes: what `init` needs on the way is of that size too.
        while count := min(self._pool.free, len(self._queue), self.oracle.batch_size):
            images, labels, ids = zip(*(self._queue.popleft() for _ in range(count)), strict=True)
            self._pool.admit(list(ids), self._columns(torch.stack(images), torch.stack(labels), ids))

    def _columns(self, x: Tensor, y: Tensor, ids: Sequence[str]) -> Columns:
        """Return the columns of new rows, the attack's and the engine's."""
        keys = [rng.image_seed(self.seed, image_id) for image_id in ids]
        seed = torch.tensor(keys, dtype=torch.int64, device=x.device)
        own = self.attack.init(x, y, seed)
        shared = {"x": x, "y": y, "seed": seed, "budget": torch.full_like(y, self.budget)}
        shared |= draw_aims(self.attack, y, seed, self.classes, self.starts)
        columns = {
            **shared,
            **self.ledger.open(len(x), x.device),
            **self.judge.open(x, self.classes, self.deterministic),
        }
        taken = own.keys() & shared.keys()
        if taken:
            raise ValueError(f"{type(self.attack).__name__} may not name a column {', '.join(sorted(taken))}")
        self._shared = tuple(shared)
        self._own = {name: f"{_OWN}{name}" for name in own}
        return {**columns, **{self._own[name]: column for name, column in own.items()}}

    def _own_columns(self) -> Columns:
        return {name: self._pool.columns[stored] for name, stored in self._own.items()}

    def _state(self, rows: slice | Tensor) -> Columns:
        shared = {name: self._pool.columns[name] for name in self._shared}
        return take({**shared, **self._own_columns()}, rows)

    def _billed(self, rows: slice | Tensor, state: Columns) -> Tensor:
        """Return what rows have been billed; `state` is theirs, between two queries."""
        if self.accounting == "exact":
            return self.ledger.billed(self._pool.columns)[rows]
        billed = self.attack.paper_billed(state, self._evaluated(rows))
        return billed.clamp(0, self.budget)

    def _evaluated(self, rows: slice | Tensor) -> Tensor:
        """Return the evaluations of some rows that chose the attacker's next move, (rows,)."""
        return self._pool.columns["attack"][rows] + self._pool.columns["gradient"][rows]

    def _query(self, ready: Tensor) -> None:
        """One forward pass of queries."""
        columns = self._pool.columns
        done = self._evaluated(ready) if self._turns.in_step else None
        rows = self._pool.next_rows(ready, self.oracle.batch_size // self.eot, done)
        state = self._state(rows)
        clock = self._billed(rows, state)
        points = self.attack.ask(state)
        observes = self.attack.observes(state)
        # The paper's code looks for success as its evaluator does, once and without billing it.
        free = observes & (self.accounting == "paper")
        numbers = torch.arange(rows.start, rows.stop, device=points.device) if isinstance(rows, slice) else rows
        told = self._queries.ask(points, clock, numbers, state, free)
        failed = self._named(told.failed)
        if failed:
            state, rows = take(state, told.rows), numbers[told.rows]
            numbers, points, clock, observes, free = (
                value[told.rows] for value in (numbers, points, clock, observes, free)
            )
        if len(numbers):
            self._charge_queries(numbers, observes, free)
            self.attack.tell(state, points, told.answer)
            put(self._own_columns(), rows, state)

            candidate = self.attack.hits(state, told.labels) & self.threat.contains(state["x"], points)
            columns["candidates"][numbers] += candidate
            columns["query_clock"][numbers] = clock
            self._consider(numbers, candidate, points, state, told.logits)
            self._end_exhausted(numbers, state)
        self._quarantine(failed)

    def _charge_queries(self, rows: Tensor, observes: Tensor, free: Tensor) -> None:
        """Charge rows for the query that they were answered."""
        columns = self._pool.columns
        kind = "gradient" if self.attack.reads == "gradients" else "attack"
        if observes.any():
            self.ledger.charge(columns, rows[observes & ~free], "observe", self.eot)
            self.ledger.charge(columns, rows[free], "judge", 1)
            self.ledger.pad((self.eot - 1) * int(free.sum()))
            self.ledger.charge(columns, rows[~observes], kind, self.eot)
        else:
            self.ledger.charge(columns, rows, kind, self.eot)

    def _named(self, failed: dict[int, str]) -> dict[str, str]:
        """Return the reasons by image id; rows change hands when others leave."""
        return {self._pool.ids[row]: reason for row, reason in failed.items()}

    def _quarantine(self, failed: dict[str, str]) -> None:
        """Take images out of the pool on which the victim failed."""
        for image_id, reason in failed.items():
            self._pool.release(self._pool.ids.index(image_id))
            self._on_failure(image_id, reason)

    def _consider(self, rows: Tensor, candidate: Tensor, points: Tensor, state: Columns, logits: Tensor) -> None:
        """Decide what the candidates of this tick, which were answered `logits`, lead to."""
        columns, judge = self._pool.columns, self.judge
        if judge.rule == "never":
            return
        if judge.rule == "paper":
            candidate = self.attack.claims(state)
        if not candidate.any():
            return
        chosen, found = rows[candidate], points[candidate]
        trusted = self.attack.reads == "labels" and not self.attack.paper_votes
        believed = judge.rule == "single" or (judge.rule == "paper" and trusted)
        if judge.rule == "paper":
            found = self.attack.best(take(state, candidate))
        elif judge.rule == "sequential" and not self.deterministic:
            waits = columns["skip"][chosen] > 0
            columns["skip"][chosen[waits]] -= 1
            chosen, found = chosen[~waits], found[~waits]
        if judge.rule != "paper" and self.accounting == "paper":
            found = self.threat.admit(columns["x"][chosen], found)
        columns["point"][chosen] = found
        columns["point_clock"][chosen] = columns["query_clock"][chosen]
        columns["point_billed"][chosen] = self._billed(chosen, self._state(chosen))
        # Then the answer that made it a candidate was the judge's own, at this very point.
        certain = self.deterministic and self.oracle.precision == "float32" and self.accounting == "exact"
        columns["known"][chosen] = certain and judge.rule != "paper"
        if certain:
            columns["reference"][chosen] = logits[candidate]
        if believed or certain:
            self._break(chosen)
        else:
            columns["votings"][chosen] += 1
            judge.want(columns, chosen, Phase.VOTE, 1 if self.deterministic else judge.majority)

    def _break(self, rows: Tensor) -> None:
        columns = self._pool.columns
        columns["broken_at"][rows] = columns["point_billed"][rows]
        if self.deterministic:
            columns["first_screen9"][rows] = columns["point_billed"][rows]
        self._finish(rows)

    def _finish(self, rows: Tensor) -> None:
        """Send rows to their final draws at the point that they hold, as the threat model admits it."""
        columns = self._pool.columns
        held = columns["point"][rows]
        admitted = self.threat.admit(columns["x"][rows], held)
        columns["point"][rows] = admitted
        columns["known"][rows] &= (admitted == held).flatten(1).all(1)
        self.judge.want(self._pool.columns, rows, Phase.FINAL, 1 if self.deterministic else self.judge.final_draws)

    def _end_exhausted(self, rows: Tensor, state: Columns | None = None) -> None:
        """Send rows without budget to their final draws, at the attack's best point."""
        columns = self._pool.columns
        over = columns["phase"][rows] == Phase.ATTACK
        if self.accounting == "exact":
            over &= self.ledger.billed(columns)[rows] + self.eot > self.budget
        else:
            over &= self.attack.paper_ended(self._state(rows) if state is None else state, self._evaluated(rows))
        if not over.any():
            return
        ended = rows[over]
        state = self._state(ended)
        best = self.attack.best(state)
        asked = self._evaluated(ended) > 0
        columns["point"][ended] = torch.where(per_row(asked, best), best, state["x"])
        columns["point_clock"][ended] = self._billed(ended, state)
        columns["known"][ended] &= ~asked
        self._finish(ended)

    def _draw(self) -> None:
        """One forward pass of the judge."""
        columns, full = self._pool.columns, self.oracle.batch_size
        wanted = self._pool.occupied("wanted")
        before = wanted.cumsum(0) - wanted
        share = (full - before).clamp_min(0).minimum(wanted)
        rows = torch.repeat_interleave(torch.arange(len(wanted), device=wanted.device), share)
        question = {"points": columns["point"][rows], "clock": columns["point_clock"][rows], "image": rows}
        answered = self._triage.ask("judge", question, self._judge_scores)
        failed = self._named(answered.failed)
        if failed:
            rows = rows[answered.rows]
            share = torch.bincount(rows, minlength=len(wanted))
        if len(rows):
            self.ledger.charge(columns, slice(0, len(wanted)), "judge", share)
            unconfirmed = self._compare(rows, *answered.values) if self.deterministic else rows[:0]
            self.judge.record(columns, rows, *answered.values)
            for phase in (Phase.CLEAN, Phase.FINAL):
                self.judge.want(columns, unconfirmed[columns["phase"][unconfirmed] == phase], phase, 1)
            self._advance(((share > 0) & (wanted == 0)).nonzero()[:, 0])
        self._quarantine(failed)

    def _compare(self, rows: Tensor, logits: Tensor) -> Tensor:
        """Compare a deterministic victim's answers with the earlier ones at the same points, where there are any.

        Args:
            rows: (draws,) the row of each draw, none twice.
            logits: (draws, classes).

        Returns:
            The rows without an earlier answer that need one more: those at their final point, and at clean images near
            the decision boundary, where noise may act that acts nowhere else.

        Raises:
            RandomVictim: If an answer is not what it was.
        """
        columns = self._pool.columns
        known = columns["known"][rows]
        different = known & changed(columns["reference"][rows], logits)
        if different.any():
            raise RandomVictim(self._pool.ids[int(rows[different][0])])
        new = rows[~known]
        columns["reference"][new] = logits[~known]
        columns["known"][new] = True
        phases = columns["phase"][new]
        return new[(phases == Phase.FINAL) | ((phases == Phase.CLEAN) & near_boundary(logits[~known]))]

    def _judge_scores(self, question: Columns) -> tuple[Tensor, ...]:
        return (self.oracle.scores(question["points"], question["clock"], "judge"),)

    def _advance(self, rows: Tensor) -> None:
        """Move rows on whose draws are complete."""
        columns = self._pool.columns
        phases = columns["phase"][rows]
        for phase, move in ((Phase.CLEAN, self._begin), (Phase.VOTE, self._count_votes), (Phase.TEST, self._look)):
            there = rows[phases == phase]
            if len(there):
                move(there)
        for row in sorted(rows[phases == Phase.FINAL].tolist(), reverse=True):
            one = torch.tensor([row], device=columns["y"].device)
            billed, image_id = int(self._billed(one, self._state(one))), self._pool.ids[row]
            self._on_point(image_id, columns["x"][row], columns["point"][row])
            self._on_record(describe(image_id, columns, one, billed, self.judge))
            self._pool.release(row)

    def _begin(self, rows: Tensor) -> None:
        """Attack the rows that their clean draws call right, and finish the others."""
        columns, judge = self._pool.columns, self.judge
        columns["clean_draws"][rows] = columns["draws"][rows]
        columns["clean_wrong"][rows] = columns["wrong"][rows]
        columns["clean_margin"][rows] = judge.mean_margin(columns, rows)
        columns["clean_prediction"][rows] = judge.mean_label(columns, rows)
        right = ~judge.is_hit(columns, rows)
        columns["phase"][rows[right]] = Phase.ATTACK
        columns["goal"][rows[right]] = columns["target"][rows[right]]
        self._finish(rows[~right])
        self._end_exhausted(rows[right])

    def _count_votes(self, rows: Tensor) -> None:
        columns, judge = self._pool.columns, self.judge
        missing = judge.next_votes(columns, rows) if not self.deterministic else torch.zeros_like(rows)
        columns["wanted"][rows] = missing
        rows = rows[missing <= 0]
        wrong = 2 * columns["wrong"][rows] > columns["draws"][rows]
        passed, failed = rows[wrong], rows[~wrong]
        first = passed[columns["first_screen9"][passed] < 0]
        columns["first_screen9"][first] = columns["point_billed"][first]
        if self.deterministic or judge.rule == "paper":
            self._break(passed)
        else:
            judge.start_test(columns, passed)
        judge.fail(columns, failed)
        self._end_exhausted(failed)

    def _look(self, rows: Tensor) -> None:
        columns, judge = self._pool.columns, self.judge
        broken, failed = judge.look(columns, rows)
        columns["wanted"][rows[~(broken | failed)]] = judge.block
        self._break(rows[broken])
        judge.fail(columns, rows[failed])
        self._end_exhausted(rows[failed])

"""The loop that attacks many images at once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.attacks.paper import paper_behaviour, with_published_steps
from rfdlight.core import rng
from rfdlight.core.tensors import Columns, per_row, put, take
from rfdlight.engine.criterion import Phase, SuccessCriterion
from rfdlight.engine.error_isolation import ErrorIsolation
from rfdlight.engine.failures import RandomVictim
from rfdlight.engine.ledger import Ledger
from rfdlight.engine.oracle import Oracle
from rfdlight.engine.pool import Pool
from rfdlight.engine.probe import changed, near_boundary
from rfdlight.engine.query_step import QueryStep
from rfdlight.engine.record import Record, describe
from rfdlight.engine.scheduler import Scheduler
from rfdlight.engine.targets import draw_targets
from rfdlight.errors import UserError

QueryCounting = Literal["exact", "paper"]

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
        attack: Its `threat` is enforced here; it is not changed.
        classes: Of the victim.
        budget: Billed queries per image, >= 0.
        pool_size: Images in the pool; with fewer than twice the oracle's batch size, forward passes may be padded.
        criterion: Decides which images are broken.
        seed: Of the attacks.
        query_counting: "exact" bills what the attacker uses and never exceeds the budget; "paper" bills, wastes and
            exceeds as the paper's code does, attack by attack, and records at most the budget.
        eot: Evaluations per query, at most the oracle's batch size: an attack that reads scores is answered
            their mean logits, one that reads labels the label that most of them have, and all are billed.
        lockstep: Have as many images begin together as there are pool_size, and draw for the criterion before others
            ask on: then images end together too, and few passes are padded at the end. Without, results come sooner.
        starting_points: Images (rows, C, H, W) of known classes (rows,), for an attack that needs a start; by default
            none.
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
        pool_size: int,
        criterion: SuccessCriterion,
        seed: int = 0,
        query_counting: QueryCounting = "exact",
        eot: int = 1,
        lockstep: bool = False,
        starting_points: tuple[Tensor, Tensor] | None = None,
        deterministic: bool,
        on_record: Callable[[Record], None],
        on_point: Callable[[str, Tensor, Tensor], None] = lambda image_id, x, point: None,
        on_failure: Callable[[str, str], None] = _refuse,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.oracle = oracle
        self.given_attack = attack
        self.attack = (with_published_steps(attack) if query_counting == "paper" else attack).configured(eot=eot)
        self._paper = paper_behaviour(self.attack)
        self.threat = self.attack.threat
        self.classes = classes
        self.budget = budget
        self.criterion = criterion
        self.seed = seed
        self.query_counting = query_counting
        self.eot = eot
        self.starting_points = starting_points
        self.deterministic = deterministic
        self.ledger = Ledger()
        self._on_record = on_record
        self._on_point = on_point
        self._on_failure = on_failure
        self._stop = stop
        self._isolation = ErrorIsolation(oracle, self.ledger)
        self._query_step = QueryStep(oracle, self._isolation, self.attack, eot)
        self._pool = Pool(pool_size)
        self._scheduler = Scheduler(lockstep)
        self._queue: deque[tuple[Tensor, Tensor, str]] = deque()
        self._own: dict[str, str] = {}

    def submit(self, x: Tensor, y: Tensor, ids: list[str]) -> None:
        """Queue images: (rows, C, H, W) float32 in [0, 1], (rows,) int64 labels and their ids."""
        self._queue.extend(zip(x, y, ids, strict=True))
        self._refill()

    def run(self, low_watermark: int = 0) -> None:
        """Tick until nothing is left, or only until images are wanted again.

        Args:
            low_watermark: Return as soon as fewer images than that are in work and cannot fill a forward pass, or even
                if they can, where images are to keep in step.

        Raises:
            RandomVictim: If a deterministic victim is none; see `begin_again`.
        """
        low_watermark = min(low_watermark, self.pool_size)
        while (len(self._pool) or self._queue) and not self._stop():
            self._refill()
            ready = (self._pool.occupied("phase") == Phase.ATTACK).nonzero()[:, 0]
            wanted = int(self._pool.occupied("wanted").sum())
            full, queries = self.oracle.batch_size, self.oracle.batch_size // self.eot
            if len(self._pool) < low_watermark and (
                self._scheduler.lockstep or (len(ready) < queries and wanted < full)
            ):
                return
            if self._scheduler.draw_next(len(ready), wanted, queries, full):
                self._draw()
            else:
                self._query(ready)

    def attack_all(self, batches: Iterable[tuple[Tensor, Tensor, list[str]]]) -> None:
        """Submit batches as the pool gets room for them, and tick until nothing is left; raises as `run` does."""
        for x, y, ids in batches:
            self.submit(x, y, ids)
            self.run(low_watermark=self.pool_size)
        self.run()

    def begin_again(self) -> None:
        """SuccessCriterion the victim as random from here on; all images are dropped, and have to be submitted anew."""
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
            UserError: If not even one batch fits, or as many as there are pool_size.
        """
        size, batch = self.bytes_per_image(x), min(self.oracle.batch_size, self.pool_size)
        pool_size = round(gigabytes * 1e9) // size
        if pool_size < batch:
            needed = math.ceil(size * batch / 1e6) / 1e3  # up to a whole MB, so that the number does
            raise UserError(
                f"model.memory must be at least {needed:g} GB for {batch} images in the pool, got "
                f"{gigabytes:g}; lower model.batch_size or raise it"
            )
        self._pool.shrink(pool_size)

    @property
    def pool_size(self) -> int:
        """How many images the pool takes at a time."""
        return self._pool.pool_size

    @property
    def in_progress(self) -> tuple[int, int]:
        """How many images in work have their clean answer, and how many of these are right and robust so far."""
        if not len(self._pool):
            return 0, 0
        phase, margin, success_query = (
            self._pool.occupied(name) for name in ("phase", "clean_margin", "success_query")
        )
        begun = phase != Phase.CLEAN
        right = (margin > 0) | (self._evaluated(slice(0, len(self._pool))) > 0)
        return int(begun.sum()), int((begun & right & (success_query < 0)).sum())

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
        shared |= draw_targets(self.attack, y, seed, self.classes, self.starting_points)
        columns = {
            **shared,
            **self.ledger.open(len(x), x.device),
            **self.criterion.open(x, self.classes, self.deterministic),
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
        if self.query_counting == "exact":
            return self.ledger.billed(self._pool.columns)[rows]
        billed = self._paper.billed(state, self._evaluated(rows))
        return billed.clamp(0, self.budget)

    def _evaluated(self, rows: slice | Tensor) -> Tensor:
        """Return the evaluations of some rows that chose the attacker's next move, (rows,)."""
        return self._pool.columns["attack"][rows] + self._pool.columns["gradient"][rows]

    def _query(self, ready: Tensor) -> None:
        """One forward pass of queries."""
        columns = self._pool.columns
        done = self._evaluated(ready) if self._scheduler.lockstep else None
        rows = self._pool.next_rows(ready, self.oracle.batch_size // self.eot, done)
        state = self._state(rows)
        clock = self._billed(rows, state)
        points = self.attack.ask(state)
        is_success_check = self.attack.is_success_check(state)
        # The paper's code looks for success as its evaluator does, once and without billing it.
        free = is_success_check & (self.query_counting == "paper")
        numbers = torch.arange(rows.start, rows.stop, device=points.device) if isinstance(rows, slice) else rows
        told = self._query_step.ask(points, clock, numbers, state, free)
        failed = self._named(told.failed)
        if failed:
            state, rows = take(state, told.rows), numbers[told.rows]
            numbers, points, clock, is_success_check, free = (
                value[told.rows] for value in (numbers, points, clock, is_success_check, free)
            )
        if len(numbers):
            self._charge_queries(numbers, is_success_check, free)
            self.attack.tell(state, points, told.answer)
            put(self._own_columns(), rows, state)

            adversarial = self.attack.is_adversarial(state, told.labels)
            candidate = adversarial & self.threat.contains(state["x"], points)
            columns["candidates"][numbers] += candidate
            columns["query_clock"][numbers] = clock
            if self.criterion.rule == "paper":
                candidate = self._paper.reports_success(state, adversarial)
            self._consider(numbers, candidate, points, state, told.logits)
            self._end_exhausted(numbers, state)
        self._quarantine(failed)

    def _charge_queries(self, rows: Tensor, is_success_check: Tensor, free: Tensor) -> None:
        """Charge rows for the query that they were answered."""
        columns = self._pool.columns
        kind = "gradient" if self.attack.access == "gradient" else "attack"
        if is_success_check.any():
            self.ledger.charge(columns, rows[is_success_check & ~free], "success_check", self.eot)
            self.ledger.charge(columns, rows[free], "criterion", 1)
            self.ledger.pad((self.eot - 1) * int(free.sum()))
            self.ledger.charge(columns, rows[~is_success_check], kind, self.eot)
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
        columns, criterion = self._pool.columns, self.criterion
        if criterion.rule == "never":
            return
        if not candidate.any():
            return
        chosen, found = rows[candidate], points[candidate]
        trusted = not self._paper.confirmed_by_votes
        believed = criterion.rule == "single" or (criterion.rule == "paper" and trusted)
        if criterion.rule == "paper":
            found = self.attack.best(take(state, candidate))
        elif criterion.rule == "sequential" and not self.deterministic:
            waits = columns["skip"][chosen] > 0
            columns["skip"][chosen[waits]] -= 1
            chosen, found = chosen[~waits], found[~waits]
        if criterion.rule != "paper" and self.query_counting == "paper":
            found = self.threat.admit(columns["x"][chosen], found)
        columns["point"][chosen] = found
        columns["point_clock"][chosen] = columns["query_clock"][chosen]
        columns["point_billed"][chosen] = self._billed(chosen, self._state(chosen))
        # Then the answer that made it a candidate was the criterion's own, at this very point.
        certain = self.deterministic and self.oracle.precision == "float32" and self.query_counting == "exact"
        columns["known"][chosen] = certain and criterion.rule != "paper"
        if certain:
            columns["reference"][chosen] = logits[candidate]
        if believed or certain:
            self._break(chosen)
        else:
            columns["voted_candidates"][chosen] += 1
            criterion.want(columns, chosen, Phase.VOTE, 1 if self.deterministic else criterion.majority)

    def _break(self, rows: Tensor) -> None:
        columns = self._pool.columns
        columns["success_query"][rows] = columns["point_billed"][rows]
        if self.deterministic:
            columns["first_9_vote_success"][rows] = columns["point_billed"][rows]
        self._finish(rows)

    def _finish(self, rows: Tensor) -> None:
        """Send rows to their final draws at the point that they hold, as the threat model admits it."""
        columns = self._pool.columns
        held = columns["point"][rows]
        admitted = self.threat.admit(columns["x"][rows], held)
        columns["point"][rows] = admitted
        columns["known"][rows] &= (admitted == held).flatten(1).all(1)
        self.criterion.want(
            self._pool.columns, rows, Phase.FINAL, 1 if self.deterministic else self.criterion.final_evaluations
        )

    def _end_exhausted(self, rows: Tensor, state: Columns | None = None) -> None:
        """Send rows without budget to their final draws, at the attack's best point."""
        columns = self._pool.columns
        over = columns["phase"][rows] == Phase.ATTACK
        if self.query_counting == "exact":
            over &= self.ledger.billed(columns)[rows] + self.eot > self.budget
        else:
            over &= self._paper.ended(self._state(rows) if state is None else state, self._evaluated(rows))
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
        """One forward pass of the criterion."""
        columns, full = self._pool.columns, self.oracle.batch_size
        wanted = self._pool.occupied("wanted")
        before = wanted.cumsum(0) - wanted
        share = (full - before).clamp_min(0).minimum(wanted)
        rows = torch.repeat_interleave(torch.arange(len(wanted), device=wanted.device), share)
        question = {"points": columns["point"][rows], "clock": columns["point_clock"][rows], "image": rows}
        answered = self._isolation.ask("criterion", question, self._criterion_scores)
        failed = self._named(answered.failed)
        if failed:
            rows = rows[answered.rows]
            share = torch.bincount(rows, minlength=len(wanted))
        if len(rows):
            self.ledger.charge(columns, slice(0, len(wanted)), "criterion", share)
            unconfirmed = self._compare(rows, *answered.values) if self.deterministic else rows[:0]
            self.criterion.record(columns, rows, *answered.values)
            for phase in (Phase.CLEAN, Phase.FINAL):
                self.criterion.want(columns, unconfirmed[columns["phase"][unconfirmed] == phase], phase, 1)
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

    def _criterion_scores(self, question: Columns) -> tuple[Tensor, ...]:
        return (self.oracle.scores(question["points"], question["clock"], "criterion"),)

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
            self._on_record(describe(image_id, columns, one, billed, self.criterion))
            self._pool.release(row)

    def _begin(self, rows: Tensor) -> None:
        """Attack the rows that their clean draws call right, and finish the others."""
        columns, criterion = self._pool.columns, self.criterion
        columns["clean_evaluations"][rows] = columns["draws"][rows]
        columns["clean_wrong"][rows] = columns["wrong"][rows]
        columns["clean_margin"][rows] = criterion.mean_margin(columns, rows)
        columns["clean_prediction"][rows] = criterion.mean_label(columns, rows)
        right = ~criterion.is_adversarial(columns, rows)
        columns["phase"][rows[right]] = Phase.ATTACK
        columns["goal"][rows[right]] = columns["target"][rows[right]]
        self._finish(rows[~right])
        self._end_exhausted(rows[right])

    def _count_votes(self, rows: Tensor) -> None:
        columns, criterion = self._pool.columns, self.criterion
        missing = criterion.next_votes(columns, rows) if not self.deterministic else torch.zeros_like(rows)
        columns["wanted"][rows] = missing
        rows = rows[missing <= 0]
        wrong = 2 * columns["wrong"][rows] > columns["draws"][rows]
        passed, failed = rows[wrong], rows[~wrong]
        first = passed[columns["first_9_vote_success"][passed] < 0]
        columns["first_9_vote_success"][first] = columns["point_billed"][first]
        if self.deterministic or criterion.rule == "paper":
            self._break(passed)
        else:
            criterion.start_test(columns, passed)
        criterion.fail(columns, failed)
        self._end_exhausted(failed)

    def _look(self, rows: Tensor) -> None:
        columns, criterion = self._pool.columns, self.criterion
        adversarial, failed = criterion.look(columns, rows)
        columns["wanted"][rows[~(adversarial | failed)]] = criterion.block
        self._break(rows[adversarial])
        criterion.fail(columns, rows[failed])
        self._end_exhausted(rows[failed])

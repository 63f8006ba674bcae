"""The loop that attacks many images at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from rfdlight import rng
from rfdlight.attacks.base import Attack
from rfdlight.engine.judge import Judge, Phase
from rfdlight.engine.ledger import Ledger
from rfdlight.engine.oracle import Oracle
from rfdlight.engine.pool import Pool
from rfdlight.norms import norm
from rfdlight.tensors import Columns, per_row, put, take

Accounting = Literal["exact", "paper"]
Record = dict[str, Any]

_OWN = "attack's "
"""Sets an attack's columns apart from the engine's in the pool, so that their names cannot clash."""


class Engine:
    """Runs an attack against an oracle: full forward passes, exact budgets, one record per image.

    An image passes through the phases of `rfdlight.engine.judge.Phase`: draws at the clean image,
    queries, draws at its candidates, draws at its final point. Images in any phase share the pool; a
    tick is one forward pass, either of queries or of draws, and as long as images remain there are enough
    of one kind to fill it.

    Args:
        oracle: Owns the victim.
        attack: Its `threat` is enforced here.
        classes: Of the victim.
        budget: Billed queries per image, >= 0.
        slots: Images in the pool; with fewer than twice the oracle's batch size, forward passes may be padded.
        judge: Decides which images are broken.
        seed: Of the attacks.
        accounting: "exact" never exceeds the budget; "paper" lets an attack end the step that it is in, as
            the paper's code does, and bills at most the budget.
        deterministic: Whether the victim answers the same every time.
        on_record: Called with each finished image's record.
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
        deterministic: bool,
        on_record: Callable[[Record], None],
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.oracle = oracle
        self.attack = attack
        self.threat = attack.threat
        self.classes = classes
        self.budget = budget
        self.judge = judge
        self.seed = seed
        self.accounting = accounting
        self.deterministic = deterministic
        self.ledger = Ledger()
        self._on_record = on_record
        self._stop = stop
        self._pool = Pool(slots)
        self._queue: deque[tuple[Tensor, Tensor, str]] = deque()
        self._own: dict[str, str] = {}

    @property
    def stopped(self) -> bool:
        """Whether the run was asked to stop."""
        return self._stop()

    def submit(self, x: Tensor, y: Tensor, ids: list[str]) -> None:
        """Queue images: (rows, C, H, W) float32 in [0, 1], (rows,) int64 labels and their ids."""
        self._queue.extend(zip(x, y, ids, strict=True))
        self._refill()

    def run(self, until_room: bool = False) -> None:
        """Tick until nothing is left, or only until images are wanted again.

        Args:
            until_room: Return as soon as the queue is empty and the pool cannot fill a forward pass.
        """
        while (len(self._pool) or self._queue) and not self._stop():
            self._refill()
            ready = (self._pool.occupied("phase") == Phase.ATTACK).nonzero()[:, 0]
            wanted = int(self._pool.occupied("wanted").sum())
            full = self.oracle.batch_size
            if len(ready) >= full:
                self._query(ready)
            elif wanted >= full:
                self._draw()
            elif until_room and self._pool.free:
                return
            elif len(ready) >= wanted:
                self._query(ready)
            else:
                self._draw()

    def _refill(self) -> None:
        count = min(self._pool.free, len(self._queue))
        if not count:
            return
        images, labels, ids = zip(*(self._queue.popleft() for _ in range(count)), strict=True)
        x, y = torch.stack(images), torch.stack(labels)
        keys = [rng.image_seed(self.seed, image_id) for image_id in ids]
        seed = torch.tensor(keys, dtype=torch.int64, device=x.device)
        own = self.attack.init(x, y, seed)
        shared = {"x": x, "y": y, "seed": seed, "budget": torch.full_like(y, self.budget)}
        columns = {
            **shared,
            **self.ledger.open(count, x.device),
            **self.judge.open(x, self.classes, self.deterministic),
        }
        taken = own.keys() & shared.keys()
        if taken:
            raise ValueError(f"{type(self.attack).__name__} may not name a column {', '.join(sorted(taken))}")
        self._own = {name: f"{_OWN}{name}" for name in own}
        self._pool.admit(list(ids), {**columns, **{self._own[name]: column for name, column in own.items()}})

    def _own_columns(self) -> Columns:
        return {name: self._pool.columns[stored] for name, stored in self._own.items()}

    def _state(self, rows: slice | Tensor) -> Columns:
        shared = {name: self._pool.columns[name] for name in ("x", "y", "seed", "budget")}
        return take({**shared, **self._own_columns()}, rows)

    def _billed(self, rows: slice | Tensor) -> Tensor:
        return self.ledger.billed(self._pool.columns)[rows]

    def _query(self, ready: Tensor) -> None:
        """One forward pass of queries."""
        columns = self._pool.columns
        rows = self._pool.next_rows(ready, self.oracle.batch_size)
        state = self._state(rows)
        points = self.attack.ask(state)
        clock = self._billed(rows)
        logits = self.oracle.scores(points, clock, "attack")
        self.ledger.charge(columns, rows, "attack", 1)
        self.ledger.pad(self.oracle.batch_size - len(points))
        labels = logits.argmax(1)
        self.attack.tell(state, points, labels if self.attack.reads == "labels" else logits)
        put(self._own_columns(), rows, state)

        candidate = (labels != state["y"]) & self.threat.contains(state["x"], points)
        rows = torch.arange(rows.start, rows.stop, device=points.device) if isinstance(rows, slice) else rows
        columns["candidates"][rows] += candidate
        self._consider(rows, candidate, points, clock, state)
        self._end_exhausted(rows, state)

    def _consider(self, rows: Tensor, candidate: Tensor, points: Tensor, clock: Tensor, state: Columns) -> None:
        """Decide what the candidates of this tick lead to."""
        columns, judge = self._pool.columns, self.judge
        if judge.rule == "never":
            return
        if judge.rule == "paper":
            candidate = self.attack.claims(state)
        if not candidate.any():
            return
        chosen, found, clock = rows[candidate], points[candidate], clock[candidate]
        believed = judge.rule == "single" or (judge.rule == "paper" and self.attack.reads == "labels")
        if judge.rule == "paper":
            found = self.threat.project(state["x"][candidate], self.attack.best(take(state, candidate)))
        elif judge.rule == "sequential" and not self.deterministic:
            waits = columns["skip"][chosen] > 0
            columns["skip"][chosen[waits]] -= 1
            chosen, found, clock = chosen[~waits], found[~waits], clock[~waits]
        columns["point"][chosen] = found
        columns["point_clock"][chosen] = clock
        if believed or (self.deterministic and self.oracle.precision == "float32"):
            self._break(chosen)
        else:
            columns["votings"][chosen] += 1
            judge.want(columns, chosen, Phase.VOTE, 1 if self.deterministic else judge.majority)

    def _break(self, rows: Tensor) -> None:
        columns = self._pool.columns
        at = (columns["point_clock"][rows] + 1).clamp_max(self.budget)
        columns["broken_at"][rows] = at
        if self.deterministic:
            columns["first_screen9"][rows] = at
        self._finish(rows)

    def _finish(self, rows: Tensor) -> None:
        """Send rows to their final draws at the point that they hold."""
        self.judge.want(self._pool.columns, rows, Phase.FINAL, 1 if self.deterministic else self.judge.final_draws)

    def _end_exhausted(self, rows: Tensor, state: Columns | None = None) -> None:
        """Send rows without budget to their final draws, at the attack's best point."""
        columns = self._pool.columns
        over = (self._billed(rows) >= self.budget) & (columns["phase"][rows] == Phase.ATTACK)
        if self.accounting == "paper":
            over &= ~self.attack.unfinished(self._state(rows) if state is None else state)
        if not over.any():
            return
        ended = rows[over]
        state = self._state(ended)
        best = self.threat.project(state["x"], self.attack.best(state))
        asked = per_row(columns["attack"][ended] > 0, best)
        columns["point"][ended] = torch.where(asked, best, state["x"])
        columns["point_clock"][ended] = self._billed(ended)
        self._finish(ended)

    def _draw(self) -> None:
        """One forward pass of the judge."""
        columns, full = self._pool.columns, self.oracle.batch_size
        wanted = self._pool.occupied("wanted")
        before = wanted.cumsum(0) - wanted
        share = (full - before).clamp_min(0).minimum(wanted)
        rows = torch.repeat_interleave(torch.arange(len(wanted), device=wanted.device), share)
        logits = self.oracle.scores(columns["point"][rows], columns["point_clock"][rows], "judge")
        self.judge.record(columns, rows, logits)
        self.ledger.charge(columns, slice(0, len(wanted)), "judge", share)
        self.ledger.pad(full - len(rows))
        self._advance(((share > 0) & (wanted == 0)).nonzero()[:, 0])

    def _advance(self, rows: Tensor) -> None:
        """Move rows on whose draws are complete."""
        columns, judge = self._pool.columns, self.judge
        phases = columns["phase"][rows]

        clean = rows[phases == Phase.CLEAN]
        columns["clean_draws"][clean] = columns["draws"][clean]
        columns["clean_wrong"][clean] = columns["wrong"][clean]
        columns["clean_margin"][clean] = judge.mean_margin(columns, clean)
        right = judge.mean_label(columns, clean) == columns["y"][clean]
        columns["phase"][clean[right]] = Phase.ATTACK
        self._finish(clean[~right])
        self._end_exhausted(clean[right])

        votes = rows[phases == Phase.VOTE]
        if len(votes):
            self._count_votes(votes)

        tests = rows[phases == Phase.TEST]
        if len(tests):
            broken, failed = judge.look(columns, tests)
            columns["wanted"][tests[~(broken | failed)]] = judge.block
            self._break(tests[broken])
            judge.fail(columns, tests[failed])
            self._end_exhausted(tests[failed])

        for row in sorted(rows[phases == Phase.FINAL].tolist(), reverse=True):
            self._on_record(self._record(row))
            self._pool.release(row)

    def _count_votes(self, rows: Tensor) -> None:
        columns, judge = self._pool.columns, self.judge
        missing = judge.next_votes(columns, rows) if not self.deterministic else torch.zeros_like(rows)
        columns["wanted"][rows] = missing
        rows = rows[missing <= 0]
        wrong = 2 * columns["wrong"][rows] > columns["draws"][rows]
        passed, failed = rows[wrong], rows[~wrong]
        first = passed[columns["first_screen9"][passed] < 0]
        columns["first_screen9"][first] = (columns["point_clock"][first] + 1).clamp_max(self.budget)
        if self.deterministic or judge.rule == "paper":
            self._break(passed)
        else:
            judge.start_test(columns, passed)
        judge.fail(columns, failed)
        self._end_exhausted(failed)

    def _record(self, row: int) -> Record:
        """Describe a finished image; `rfdlight.results.records` documents the fields."""
        columns, one = self._pool.columns, torch.tensor([row], device=self._pool.columns["y"].device)
        delta = columns["point"][one] - columns["x"][one]

        def count(name: str) -> int:
            return int(columns[name][row])

        def query(name: str) -> int | None:
            return None if count(name) < 0 else count(name)

        return {
            "id": self._pool.ids[row],
            "label": count("y"),
            "attack": count("attack"),
            "observe": count("observe"),
            "judge": count("judge"),
            "billed": min(count("attack") + count("observe"), self.budget),
            "candidates": count("candidates"),
            "votings": count("votings"),
            "tests": count("tests"),
            "broken_at": query("broken_at"),
            "first_screen9": query("first_screen9"),
            "clean_draws": count("clean_draws"),
            "clean_wrong": count("clean_wrong"),
            "clean_margin": float(columns["clean_margin"][row]),
            "final_draws": count("draws"),
            "final_wrong": count("wrong"),
            "final_margin": float(self.judge.mean_margin(columns, one)),
            "verdict": self.judge.verdict(columns, row),
            "linf": float(norm(delta, "linf")),
            "l2": float(norm(delta, "l2")),
        }

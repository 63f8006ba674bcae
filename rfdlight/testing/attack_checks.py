"""Checks that every attack has to pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from msgspec.structs import astuple
from torch import Tensor, nn

from rfdlight.attacks.base import Attack
from rfdlight.core.arguments import text_of
from rfdlight.core.balls import reach
from rfdlight.core.tensors import Columns
from rfdlight.engine.config import EngineConfig, RunObserver
from rfdlight.engine.criteria import criterion_named
from rfdlight.engine.engine import Engine
from rfdlight.engine.oracle import Oracle, OracleConfig
from rfdlight.records.records import Record, in_order
from rfdlight.testing.requirements import require
from rfdlight.testing.small_victims import CLASSES, CoinFlip, Constant, OneHot, images, small_network

ENGINE_COLUMNS = ("x", "y", "target", "seed", "budget", "start")
"""Columns that no attack may return or change."""

_EPS = {"linf": 0.08, "l2": 2.0}
"""Radius of the checks for an attack without one."""

_QUERIES = ("attack", "gradient", "success_check")
"""Columns of a record that count queries."""

Records = list[Record]


class Watched(Attack):
    """Extension of an attack that checks its promises at each call of the engine.

    `queried` has the points of each image by its key of random numbers, `column_form` the dtype and shape of a row of
    each column.
    """

    queried: dict[int, list[Tensor]]
    column_form: dict[str, tuple[torch.dtype, torch.Size]]

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        given = {"x": x.clone(), "y": y.clone(), "seed": seed.clone()}
        columns = super().init(x, y, seed)  # type: ignore[safe-super]
        _check_unchanged({"x": x, "y": y, "seed": seed}, given, "init")
        clashes = sorted(columns.keys() & set(ENGINE_COLUMNS))
        require(not clashes, f"init returned the engine's columns {', '.join(clashes)}: rename them")
        for name, column in columns.items():
            rows = column.ndim > 0 and len(column) == len(x)
            require(rows, f"column {name} has shape {tuple(column.shape)}, not {len(x)} rows")
        places = [column.data_ptr() for column in columns.values() if column.numel()]
        require(len(set(places)) == len(places), "two columns of init share memory: clone one of them")
        self.column_form = {name: (column.dtype, column.shape[1:]) for name, column in columns.items()}
        return columns

    def ask(self, state: Columns) -> Tensor:
        before, x = _copy(state), state["x"]
        points = super().ask(state)  # type: ignore[safe-super]
        found, expected = (tuple(points.shape), points.dtype), (tuple(x.shape), x.dtype)
        require(found == expected, f"ask returned shape and dtype {found}, expected {expected}")
        low, high = float(points.min()), float(points.max())
        require(low >= 0 and high <= 1, f"ask returned pixels in [{low:g}, {high:g}], expected [0, 1]")
        _check_unchanged(state, before, "ask")
        self._check_form(state, "ask")
        return points

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        before = {**_copy(state), "points": points.clone(), "answer": answer.clone()}
        super().tell(state, points, answer)  # type: ignore[safe-super]
        _check_unchanged({**state, "points": points, "answer": answer}, before, "tell")
        self._check_form(state, "tell")
        best = self.best(state)
        require(self.threat.contains(state["x"], best).all(), f"best left the {self.norm} ball of {self.eps:g}")
        require((best >= 0).all() and (best <= 1).all(), "best left the pixel range [0, 1]")
        for seed, point in zip(state["seed"].tolist(), points, strict=True):
            self.queried.setdefault(seed, []).append(point.clone())

    def _check_form(self, state: Columns, call: str) -> None:
        for name, expected in self.column_form.items():
            found = (state[name].dtype, state[name].shape[1:])
            require(found == expected, f"{call} changed column {name}: expected {expected}, got {found}")


def _copy(state: Columns) -> Columns:
    return {name: state[name].clone() for name in ENGINE_COLUMNS if name in state}


def _check_unchanged(now: Columns, before: Columns, call: str) -> None:
    for name, value in before.items():
        require(torch.equal(now[name], value), f"{call} changed {name}: expected it unchanged")


@dataclass(frozen=True)
class Run:
    """Records of a run ordered by id, and its points by image, empty under paper query counting."""

    records: Records
    queried: dict[int, list[Tensor]]
    engine: Engine
    forwarded: int

    def same_queries(self, other: Run) -> bool:
        """Return whether each image of another run had the same points in this one."""
        return all(
            len(self.queried[seed]) == len(points) and all(map(torch.equal, self.queried[seed], points))
            for seed, points in other.queried.items()
        )


class _Recorder(RunObserver):
    """Keeps the records of a run."""

    def __init__(self) -> None:
        self.records: Records = []

    def on_record(self, record: Record) -> None:
        self.records.append(record)


@dataclass(frozen=True)
class Subject:
    """An attack with a radius, and the victim, images and predicted labels on which it is checked."""

    attack: Attack
    budget: int
    network: nn.Module
    x: Tensor
    y: Tensor

    def run(self, victim: nn.Module | None = None, **changes: Any) -> Run:
        """Attack the images with changed options of the engine, `order`, `chunk`, `x`, `y`, or `rows` of a pass."""
        victim = self.network if victim is None else victim
        x, y = changes.pop("x", self.x), changes.pop("y", self.y)
        order = changes.pop("order", list(range(len(x))))
        chunk, paper = changes.pop("chunk", len(order)), changes.get("query_counting") == "paper"
        rows = changes.pop("rows", 4)
        options = {"budget": self.budget, "pool_size": 4, "deterministic": True, **changes}
        criterion = options.pop("criterion", None) or criterion_named("sequential")
        observer = _Recorder()
        with torch.no_grad():
            classes = victim(x[:1]).shape[1]
            if self.attack.targeted and self.attack.needs_starting_point:
                candidates = images(64, tuple(x.shape[1:]), seed=77)
                options["starting_points"] = candidates, victim(candidates).argmax(1)
        oracle = Oracle(victim, rows, OracleConfig(any_pixels=paper))
        queried: dict[int, list[Tensor]] = {}
        attack = self.attack
        if not paper:
            attack = attack.extended_by(Watched)  # type: ignore[type-abstract]
            vars(attack)["queried"] = queried
        engine = Engine(oracle, attack, criterion, EngineConfig(classes=classes, **options), observer)
        try:
            for first in range(0, len(order), chunk):
                rows = order[first : first + chunk]
                engine.submit(x[rows], y[rows], [f"image {row}" for row in rows])
                engine.run(low_watermark=engine.pool_size)
            engine.run()
        finally:
            oracle.close()
        return Run(in_order(observer.records), queried, engine, oracle.forwarded)


def check_ledger(run: Run) -> None:
    """Check that each query and each evaluation of the victim is counted."""
    total = run.engine.ledger.total
    queries, counted = sum(map(len, run.queried.values())), sum(total[name] for name in _QUERIES)
    require(queries == counted, f"{queries} queries were answered, {counted} were counted")
    ledger = sum(total.values())
    require(run.forwarded == ledger, f"the victim got {run.forwarded} images, the query ledger has {ledger}")


def _attributes(attack: Attack) -> dict[str, str]:
    own = vars(attack).items()
    return {name: text_of(value) for name, value in own if name not in ("eot", "queried", "column_form")}


def _queries(record: Record) -> int:
    return sum(int(getattr(record, name)) for name in _QUERIES)


def check_records(records: Records, attack: Attack, budget: int) -> None:
    """Check bills and budgets, and that final points lie in the ball and successes are confirmed."""
    for record in records:
        spent, billed = _queries(record), record.billed
        require(spent == billed <= budget, f"{record.id}: {spent} queries, {billed} billed, budget {budget}")
        complete = billed == budget or record.success_query is not None or spent == 0
        require(complete, f"{record.id}: ended after {billed} of {budget} queries without success")
        distance, most = getattr(record, attack.norm), reach(attack.norm, attack.threat.eps)
        require(distance <= most, f"{record.id}: final point at {distance:g}, outside the ball of {most:g}")
        confirmed = record.success_query is None or record.verdict == "adversarial"
        require(confirmed, f"{record.id}: success at query {record.success_query} is not adversarial at the end")


def check_batch_composition(subject: Subject, run: Run) -> None:
    """Check that queries and records depend neither on the pool, nor on the order, nor on other images or runs."""
    order = list(range(len(subject.x)))[::-1]
    for arrangement in ({"pool_size": 7, "order": order, "chunk": 3, "lockstep": True}, {"order": order[1::2]}):
        other = subject.run(**arrangement)
        kept = [record for record in run.records if record.id in {one.id for one in other.records}]
        same = other.records == kept and run.same_queries(other)
        require(same, "queries depend on which images are attacked together, or on an earlier run")


def check_misclassified(subject: Subject) -> None:
    """Check that images that are misclassified from the start are not attacked."""
    run = subject.run(y=(subject.y + 1) % CLASSES, budget=5)
    require(not run.queried, "misclassified images were attacked")


def check_exact_budgets(subject: Subject) -> None:
    """Check that an attack without success spends any budget exactly."""
    x, y = images(3, (3, 4, 4)), torch.zeros(3, dtype=torch.int64)
    for budget in (0, 1, 2, 3, min(30, subject.budget)):
        for record in subject.run(Constant(), x=x, y=y, budget=budget).records:
            require(_queries(record) == record.billed == budget, f"{_queries(record)} queries of a budget of {budget}")
            require(record.success_query is None, "success on a victim that predicts one class everywhere")


def check_repeated_evaluations(subject: Subject, run: Run) -> None:
    """Check that two equal evaluations per query give the same attack at twice the bill."""
    twice = subject.run(budget=2 * subject.budget, eot=2)
    require(run.same_queries(twice), "two equal evaluations per query changed the queries")
    for before, after in zip(run.records, twice.records, strict=True):
        for name in (*_QUERIES, "billed", "success_query"):
            expected = getattr(before, name) and 2 * getattr(before, name)
            require(
                getattr(after, name) == expected,
                f"two evaluations per query: {name} is {getattr(after, name)}, not {expected}",
            )


def check_random_victims(subject: Subject) -> None:
    """Check budgets and finite numbers under both query countings on a victim that predicts at random."""
    x, y, budget = images(4, (3, 4, 4)), torch.zeros(4, dtype=torch.int64), min(25, subject.budget)
    for counting, rule in (("exact", "never"), ("paper", "paper")):
        criterion = criterion_named(rule, final_evaluations=40)
        changes = {"deterministic": False, "criterion": criterion, "query_counting": counting, "rows": 64}
        for record in subject.run(CoinFlip(), x=x, y=y, budget=budget, **changes).records:
            numbers = [value for value in astuple(record) if isinstance(value, float)]
            require(all(map(math.isfinite, numbers)), f"{counting} query counting: a record holds NaN or infinity")
            require(record.billed <= budget, f"{counting} query counting billed {record.billed} of {budget} queries")


def check_attack(attack: Attack, *, budget: int = 60, num_images: int = 6) -> None:
    """Check that an attack keeps the promises of `rfdlight.attacks.base.Attack`, in a few seconds.

    Args:
        attack: Any attack; without a radius, it is checked with one of 0.08 in linf or 2 in l2.
        budget: Queries per image in the longest runs.
        num_images: Images in these runs.

    Raises:
        AssertionError: With one line on the first promise that does not hold.
    """
    attack = attack if attack.eps is not None else attack.configured(eps=_EPS[attack.norm])
    network, x = small_network(), images(num_images)
    with torch.no_grad():
        subject = Subject(attack, budget, network, x, network(x).argmax(1))
    run = subject.run()
    unchanged = _attributes(run.engine.attack) == _attributes(attack)
    require(unchanged, "the attack changed its attributes: keep what lasts in columns")
    check_ledger(run)
    check_records(run.records, attack, budget)
    check_batch_composition(subject, run)
    check_repeated_evaluations(subject, run)
    if attack.access == "decision":
        require(run.same_queries(subject.run(OneHot(network))), "a decision-based attack depends on scores")
    check_misclassified(subject)
    check_exact_budgets(subject)
    check_random_victims(subject)

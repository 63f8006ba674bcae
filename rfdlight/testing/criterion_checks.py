"""Checks that every success criterion has to pass."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from msgspec.structs import replace
from scipy.stats import binom
from torch import Tensor, nn

from rfdlight.attacks.base import Attack
from rfdlight.attacks.random_noise import RandomNoise
from rfdlight.core import rng
from rfdlight.core.arguments import text_of
from rfdlight.core.row_counter import RowCounter
from rfdlight.engine.config import EngineConfig, RunObserver
from rfdlight.engine.criteria import criterion_named
from rfdlight.engine.criteria.base import Conclusion, Queries, SuccessCriterion
from rfdlight.engine.engine import Engine
from rfdlight.engine.evaluations import ADVERSARIAL_LEVEL
from rfdlight.engine.oracle import Oracle, Purpose
from rfdlight.engine.pool import columns_of
from rfdlight.engine.state import ImageState
from rfdlight.records.records import Record, in_order, interim_queries
from rfdlight.testing.requirements import require
from rfdlight.testing.small_victims import Around, IidVictim, Pattern, Tied, normal

_FINAL_EVALUATIONS = 100
"""Most evaluations of a final point, where a class is checked."""

_EPS = 0.1
"""Radius of the attacks."""

_LONGEST = 2000
"""Evaluations after which a candidate has to be decided."""

_RARE = 1e-5
"""Largest probability that a criterion within a bound on probabilities fails its check."""

_COUNTERS = ("candidates.tested_candidates", "candidates.first_9_vote_success")
"""Columns of the engine that `conclude` may change, beside the evaluations."""


@dataclass
class Log:
    """What a criterion selected and requested, by an image's key of random numbers."""

    selected: dict[int, list[int]] = field(default_factory=dict)  # queries billed at each selected query
    started: Counter[int] = field(default_factory=Counter)  # candidates with evaluations
    requested: Counter[int] = field(default_factory=Counter)  # evaluations of all candidates
    current: Counter[int] = field(default_factory=Counter)  # evaluations of the latest candidate
    waiting: list[int] = field(default_factory=list)  # the images of the candidates that are started next
    own_points: bool = False  # whether the criterion evaluates other points than those of the queries


class Watched(SuccessCriterion):
    """Extension of a criterion that checks and logs what its methods return."""

    log: Log

    def open(self, y: Tensor) -> Any:
        own = super().open(y)
        columns = own if isinstance(own, dict) else vars(own)
        for name, column in columns.items():
            rows = isinstance(column, Tensor) and column.ndim > 0 and len(column) == len(y)
            require(rows, f"open returned {name} without one row per image: return tensors of {len(y)} rows")
        return own

    def candidates(self, queries: Queries, images: ImageState) -> Tensor:
        before = _copy(vars(queries)), _copy(columns_of(images), "criterion")
        chosen = super().candidates(queries, images)
        _check_unchanged(before[0], vars(queries), "candidates")
        _check_unchanged(before[1], columns_of(images), "candidates")
        _check_form("candidates", chosen, torch.bool, queries.rows.shape)
        billed = queries.clock + queries.attack.eot
        for key, number in zip(queries.state["seed"][chosen].tolist(), billed[chosen].tolist(), strict=True):
            self.log.selected.setdefault(key, []).append(number)
        return chosen

    def points(self, candidates: Queries) -> Tensor | None:
        points = super().points(candidates)
        if points is None:
            require(candidates.adversarial.all(), "candidates selected a query that is not adversarial")
        else:
            _check_form("points", points, candidates.points.dtype, candidates.points.shape)
            self.log.own_points = True
        self.log.waiting = candidates.state["seed"].tolist()
        return points

    def first_evaluations(self, attack: Attack) -> int:
        number = super().first_evaluations(attack)  # type: ignore[safe-super]
        require(type(number) is int and number >= 0, f"first_evaluations returned {number!r}, expected an int >= 0")
        for key in self.log.waiting if number else ():
            self.log.started[key] += 1
            self.log.requested[key] += number
            self.log.current[key] = number
        return number

    def conclude(self, images: ImageState, rows: Tensor) -> Conclusion:
        before = _copy(columns_of(images))
        conclusion = super().conclude(images, rows)
        after = columns_of(images)
        for path in [path for path in before if path.startswith(("criterion.", "evaluations.")) or path in _COUNTERS]:
            before[path][rows] = after[path][rows]
        _check_unchanged(before, after, "conclude")
        more, adversarial = conclusion.more, conclusion.adversarial
        _check_form("Conclusion.more", more, torch.int64, rows.shape)
        _check_form("Conclusion.adversarial", adversarial, torch.bool, rows.shape)
        require((more >= 0).all(), "Conclusion.more is negative: it is 0 where the decision is final")
        for key, number in zip(images.shared["seed"][rows].tolist(), more.tolist(), strict=True):
            self.log.requested[key] += number
            self.log.current[key] += number
            require(self.log.current[key] <= _LONGEST, f"a candidate is undecided after {_LONGEST} evaluations")
        return conclusion

    def conclude_interim(self, images: ImageState, rows: Tensor) -> Conclusion:
        before = _copy(columns_of(images))
        conclusion = super().conclude_interim(images, rows)
        after = columns_of(images)
        for path in [path for path in before if path.startswith(("criterion.", "evaluations."))]:
            before[path][rows] = after[path][rows]
        _check_unchanged(before, after, "conclude_interim")
        _check_form("Conclusion.more", conclusion.more, torch.int64, rows.shape)
        _check_form("Conclusion.adversarial", conclusion.adversarial, torch.bool, rows.shape)
        made = images.evaluations.count[rows] + conclusion.more
        require((made <= _LONGEST).all(), f"a submission is undecided after {_LONGEST} evaluations")
        return conclusion


class Divided(SuccessCriterion):
    """Extension of a criterion that decides on each query and each candidate alone."""

    def candidates(self, queries: Queries, images: ImageState) -> Tensor:
        alone = [torch.tensor([position]) for position in range(len(queries.rows))]
        return torch.cat([super(Divided, self).candidates(queries.take(one), images) for one in alone])

    def conclude(self, images: ImageState, rows: Tensor) -> Conclusion:
        alone = [super(Divided, self).conclude(images, row[None]) for row in rows]
        return _joined(alone)

    def conclude_interim(self, images: ImageState, rows: Tensor) -> Conclusion:
        return _joined([super(Divided, self).conclude_interim(images, row[None]) for row in rows])


def _joined(alone: list[Conclusion]) -> Conclusion:
    return Conclusion(torch.cat([one.more for one in alone]), torch.cat([one.adversarial for one in alone]))


def _extended(criterion: SuccessCriterion, *extensions: type[SuccessCriterion]) -> SuccessCriterion:
    """Return a copy that has the methods of some extensions before its own."""
    form = type("Extended", (*extensions, type(criterion)), {})
    extended: SuccessCriterion = object.__new__(form)
    vars(extended).update(copy.deepcopy(vars(criterion)))
    return extended


def _copy(columns: Mapping[str, Any], leave_out: str = ".") -> dict[str, Tensor]:
    """Return copies of all tensors but those of a group."""
    group = f"{leave_out}."
    return {
        path: value.clone()
        for path, value in columns.items()
        if isinstance(value, Tensor) and not path.startswith(group)
    }


def _check_unchanged(before: dict[str, Tensor], now: Mapping[str, Any], call: str) -> None:
    for name, value in before.items():
        require(torch.equal(now[name], value), f"{call} changed {name}: expected it unchanged")


def _check_form(name: str, found: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    forms = (tuple(found.shape), found.dtype), (tuple(shape), dtype)
    require(forms[0] == forms[1], f"{name} has shape and dtype {forms[0]}, expected {forms[1]}")


class _Oracle(Oracle):
    """Keeps all points by purpose, without padding, and ends a run that makes more evaluations than `most`."""

    def __init__(self, victim: nn.Module, rows: int, most: int) -> None:
        super().__init__(victim, rows)
        self.evaluated: dict[str, list[Tensor]] = {"attack": [], "criterion": []}
        self._most = most

    def scores(self, points: Tensor, clock: Tensor, purpose: Purpose) -> Tensor:
        self.evaluated[purpose] += list(points.clone())
        made = len(self.evaluated["criterion"])
        require(made <= self._most, f"the criterion's evaluations do not end: {made} are made")
        return super().scores(points, clock, purpose)

    def times(self, point: Tensor, purpose: Purpose) -> int:
        """Return how often a point was evaluated."""
        return sum(torch.equal(point, other) for other in self.evaluated[purpose])


class _Collector(RunObserver):
    """Keeps records and final points."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.final: dict[str, Tensor] = {}

    def on_point(self, image_id: str, x: Tensor, point: Tensor) -> None:
        self.final[image_id] = point.clone()

    def on_record(self, record: Record) -> None:
        self.records.append(record)


@dataclass(frozen=True)
class Run:
    """A run: its records ordered by id, its final points by id, and what victim, oracle and criterion have counted."""

    records: list[Record]
    final: dict[str, Tensor]
    seen: int
    oracle: _Oracle
    log: Log
    ledger: dict[str, int]
    config: EngineConfig

    def key(self, record: Record) -> int:
        """Return the key of an image in the log."""
        return rng.image_seed(self.config.seed, record.id)


def gray(count: int) -> Tensor:
    """Return gray images, (count, 3, 4, 4)."""
    return torch.full((count, 3, 4, 4), 0.5)


@dataclass(frozen=True)
class Subject:
    """A criterion, and the attack under which it is checked."""

    criterion: SuccessCriterion
    attack: type[Attack]

    def run(self, victim: nn.Module, x: Tensor, y: Tensor | None = None, **changes: Any) -> Run:
        """Attack images, by default of class 0, with changed options of the engine, and check all that is counted.

        Other changes are `criterion`, `targeted`, `extensions` of the criterion, `order` of the images, and the `rows`
        of a pass.
        """
        y = torch.zeros(len(x), dtype=torch.int64) if y is None else y
        extensions = changes.pop("extensions", (Watched,))
        attack = self.attack(eps=_EPS, targeted=changes.pop("targeted", False))
        criterion = _extended(changes.pop("criterion", self.criterion), *extensions)
        log = vars(criterion)["log"] = Log()
        order = changes.pop("order", list(range(len(x))))
        with torch.random.fork_rng(devices=[]):
            classes = victim(x[:1]).shape[1]
        options = {"classes": classes, "pool_size": len(x), "deterministic": False, **changes}
        options["interim_queries"] = interim_queries(options["budget"])
        observer = _Collector()
        tests = 2 * criterion.final_test.most
        oracle = _Oracle(victim, options.pop("rows", 400), len(x) * (tests + options["budget"] * _LONGEST))
        engine = Engine(oracle, attack, criterion, EngineConfig(**options), observer)
        before = _attributes(criterion)
        engine.submit(x[order], y[order], [f"image {row:02d}" for row in order])
        with RowCounter(victim) as counter:
            engine.run()
        oracle.close()
        require(_attributes(criterion) == before, "the criterion changed its attributes: keep what lasts in open")
        records, total = in_order(observer.records), engine.ledger.total
        run = Run(records, observer.final, counter.rows, oracle, log, total, engine.config)
        check_rows(run)
        for record in run.records:
            check_bill(run, record)
            check_final_evaluations(record, self.criterion)
            if not engine.deterministic:
                check_evaluations(run, record, self.criterion)
        return run


def _attributes(criterion: SuccessCriterion) -> dict[str, str]:
    return {name: text_of(value) for name, value in vars(criterion).items() if name != "log"}


def check_rows(run: Run) -> None:
    """Check that each row of the victim is counted once, and that finished images have the rows of their records."""
    counted = sum(run.ledger.values())
    require(run.seen == counted, f"the victim saw {run.seen} rows, {counted} were counted")
    rows = sum(record.criterion for record in run.records)
    left = run.seen - run.oracle.spare - sum(record.queries for record in run.records)
    require(rows == left, f"the criterion's rows are {rows} in the records, {left} at the victim")


def check_bill(run: Run, record: Record) -> None:
    """Check that whole queries are billed, and that an image's attack ends at its success or its budget."""
    eot, budget = run.config.eot, run.config.budget
    billed = record.billed == record.queries <= budget and record.billed % eot == 0
    require(billed, f"{record.queries} evaluations, {record.billed} billed, {eot} per query, budget {budget}")
    success, spent = record.success_query, record.billed + eot > budget
    ended = record.billed == success if success is not None else spent or record.verdict == "misclassified"
    require(ended, f"the attack ended after {record.billed} of {budget} queries, with success at {success}")


def check_final_evaluations(record: Record, criterion: SuccessCriterion) -> None:
    """Check that a final point has evaluations, at most so many as the final test allows."""
    most, made = criterion.final_test.most, record.final_evaluations
    require(1 <= made <= most, f"a final point has {made} evaluations, expected 1 to {most}")


def check_evaluations(run: Run, record: Record, criterion: SuccessCriterion) -> None:
    """Check that an image of a random victim has exactly the evaluations that the criterion and its tests request."""
    requested, started = run.log.requested[run.key(record)], run.log.started[run.key(record)]
    interim = sum(each.evaluations for each in record.interim)
    rest = record.criterion - record.clean_evaluations - requested - interim
    if record.verdict == "misclassified":
        final = [0]
    elif criterion.reaches_verdict and record.success_query is not None and record.verdict == "adversarial":
        final = [0, record.final_evaluations]  # without a verdict by the candidate's evaluations, final ones follow
    else:
        final = [record.final_evaluations]
    require(
        rest in final,
        f"{record.criterion} evaluations: {record.clean_evaluations} of the clean image, {requested} requested for "
        f"candidates, {interim} of would-be submissions, {record.final_evaluations} of the final point",
    )
    counted = record.voted_candidates
    require(counted == started, f"{counted} candidates with evaluations were counted, {started} were started")


def check_deterministic_success(run: Run, record: Record) -> None:
    """Check that the first candidate of a deterministic victim that is adversarial succeeds, at its own query."""
    success, queries = record.success_query, run.log.selected.get(run.key(record), [])
    chance = record.voted_candidates > 0 or run.log.own_points  # then a candidate may not be adversarial
    expected: list[int | None] = [*queries, None] if chance else [*queries, None][:1]
    require(success in expected, f"deterministic victim: success at query {success}, candidates at {queries}")
    require(
        success is None or record.verdict == "adversarial",
        f"deterministic victim: success at query {success} is {record.verdict}: select adversarial answers alone",
    )


def check_deterministic_cost(run: Run, record: Record, verdict: str) -> None:
    """Check that a deterministic victim decides by one evaluation, and that it is evaluated again at the final point.

    `verdict` is the victim's at the final point.
    """
    found = record.verdict, record.final_evaluations
    require(found == (verdict, 1), f"deterministic victim: got {found}, expected {(verdict, 1)} at the final point")
    point = run.final[record.id]
    times = run.oracle.times(point, "criterion"), run.oracle.times(point, "attack")
    require(times[0] > 0 and sum(times) > 1, "deterministic victim: the final point was not evaluated again")
    known = record.success_query is not None and (record.voted_candidates > 0 or not run.log.own_points)
    expected = 1 + record.voted_candidates + (1 if known else 2)
    require(record.criterion == expected, f"deterministic victim: {record.criterion} evaluations, expected {expected}")


@torch.no_grad()
def check_deterministic_victim(subject: Subject) -> None:
    """Check that one evaluation of a deterministic victim decides, whatever pool, order and repetition of queries.

    An image without success has the record that it has under the criterion `never`.
    """
    victim, x = Pattern(0.9), torch.tensor([0.5, 0.4, 0.5, 0.6, 0.5, 0.0])[:, None, None, None] + 0 * gray(6)
    options: dict[str, Any] = {"budget": 20, "deterministic": True}
    run = subject.run(victim, x, **options)
    plain = subject.run(victim, x, criterion=criterion_named("never"), **options)
    for record, reference in zip(run.records, plain.records, strict=True):
        check_deterministic_success(run, record)
        wrong = bool(victim(run.final[record.id][None]).argmax(1) != record.label)
        check_deterministic_cost(run, record, "adversarial" if wrong else "robust")
        if record.success_query is None and not record.voted_candidates:
            require(record == reference, "an image without success has another record than under the criterion never")
    other = subject.run(victim, x, order=[3, 5, 1, 0, 4, 2], pool_size=4, rows=3, lockstep=True, **options)
    require(other.records == run.records, "deterministic victim: records depend on images that are attacked together")
    twice = subject.run(victim, x, **options | {"budget": 40, "eot": 2})
    for record, repeated in zip(run.records, twice.records, strict=True):
        names = ("attack", "billed", "success_query", "first_9_vote_success")
        doubled = replace(record, **{name: getattr(record, name) and 2 * getattr(record, name) for name in names})
        require(repeated == doubled, "deterministic victim: two equal evaluations per query changed a record")


def check_error(subject: Subject) -> None:
    """Check that few robust images get the verdict "adversarial", or any success of a criterion that claims a bound.

    Single answers are wrong by 20 %, with a mean margin far from zero; a bound that the criterion claims also has to
    hold at a mean margin of zero.
    """
    claims, count = subject.criterion.reaches_verdict, 40
    most = int(binom.isf(_RARE, count, ADVERSARIAL_LEVEL * (2 if claims else 1)))
    for wrong, budget in [(0.2, 20), (0.5, 120)] if claims else [(0.2, 20)]:
        records = subject.run(IidVictim(normal(wrong), right_at_gray=True), gray(count), budget=budget).records
        found = sum(r.verdict == "adversarial" or (claims and r.success_query is not None) for r in records)
        require(
            found <= most,
            f"{found} of {count} images with {wrong:.0%} wrong answers called adversarial, expected at most {most}",
        )


def check_power(subject: Subject) -> None:
    """Check that images with 90 % wrong answers at every point but the clean one are adversarial at the final point."""
    run = subject.run(IidVictim(normal(0.9), right_at_gray=True), gray(40), budget=6)
    found, least = sum(record.verdict == "adversarial" for record in run.records), int(binom.ppf(_RARE, 40, 0.99))
    require(found >= least, f"{found} of 40 adversarial images got the verdict adversarial, expected at least {least}")


def check_ties(subject: Subject) -> None:
    """Check that a random victim with two equal logits leaves images undecided, and that no success claims a bound."""
    for targeted in (False, True):
        run = subject.run(Tied(), gray(4), torch.tensor([0, 1, 0, 1]), targeted=targeted, budget=6)
        for record in run.records:
            require(record.verdict == "undecided", f"equal logits: a final point is {record.verdict}")
            claimed = subject.criterion.reaches_verdict and record.success_query is not None
            require(not claimed, "equal logits: a success of a criterion that claims a bound on its error")


def check_targeted(subject: Subject) -> None:
    """Check that images under targeted attack are adversarial exactly if the mean logits name their target."""
    for record in subject.run(Around([0.0, 9.0, 0.0]), gray(8), targeted=True, budget=8).records:
        leads = record.target == 1
        verdict = "adversarial" if leads else "robust"
        require(record.verdict == verdict, f"the mean logits name class 1, target {record.target}: {record.verdict}")
        require(
            leads or record.success_query is None, "success where the mean logits name another class than the target"
        )


def check_repeated_evaluations(subject: Subject) -> None:
    """Check that the evaluations of a random victim are exact where a query averages several."""
    run = subject.run(IidVictim(normal(0.4), right_at_gray=True), gray(8), budget=23, eot=3)
    for record in run.records:
        whole = record.success_query is not None or record.billed == 21
        require(whole, f"{record.billed} queries billed of a budget of 23 at 3 evaluations per query, expected 21")


def check_equal_runs(subject: Subject) -> None:
    """Check that equal runs have equal records, and that the decision on an image does not depend on other images."""
    victim = IidVictim(normal(0.6), right_at_gray=True)
    run, divided = (
        subject.run(victim, gray(6), extensions=form, budget=12) for form in ((Watched,), (Watched, Divided))
    )
    if divided.records != run.records:
        equal = subject.run(victim, gray(6), budget=12).records == run.records
        require(equal, "two equal runs have other records")
        raise AssertionError("the decision on an image depends on the images decided in the same call")


def check_criterion(
    criterion: SuccessCriterion | type[SuccessCriterion], *, attack: type[Attack] = RandomNoise
) -> None:
    """Check that a success criterion keeps the promises of `rfdlight.engine.criteria.SuccessCriterion`, in seconds.

    Args:
        criterion: A criterion, or its class, which is then made with at most 100 evaluations of a final point.
        attack: Attack under which it is checked; it has a targeted form.

    Raises:
        AssertionError: With one line on the first promise that does not hold.
        UserError: If the criterion is not defined for the attack.
    """
    if isinstance(criterion, type):
        criterion = criterion(_FINAL_EVALUATIONS)
        most = criterion.final_test.most
        require(most == _FINAL_EVALUATIONS, "the class ignores final_evaluations: pass it to SuccessCriterion")
    criterion.check(attack(eps=_EPS))
    subject = Subject(criterion, attack)
    check_deterministic_victim(subject)
    check_equal_runs(subject)
    check_targeted(subject)
    check_repeated_evaluations(subject)
    check_power(subject)
    check_error(subject)
    check_ties(subject)

"""What every success criterion has to obey, the bounds that the default claims, and a resumed run."""

from types import SimpleNamespace

import pytest
import torch
from harness import Run, others_slow
from scipy import stats

import rfdlight as rfd
from rfdlight.attacks import PGD, RandomNoise, Square
from rfdlight.core.registry import NAMES, component
from rfdlight.engine import criterion_named
from rfdlight.engine.criteria.base import Conclusion, SuccessCriterion, majority
from rfdlight.engine.criteria.sequential import SequentialCriterion
from rfdlight.engine.criteria.single import SingleCriterion
from rfdlight.engine.criterion_step import CriterionStep
from rfdlight.engine.state import Phase
from rfdlight.errors import UserError
from rfdlight.records.records import read_records
from rfdlight.testing import check_criterion
from rfdlight.testing.criterion_checks import (
    Subject,
    check_equal_runs,
    check_error,
    check_targeted,
    check_ties,
    gray,
)
from rfdlight.testing.small_victims import IidVictim, normal


@pytest.mark.parametrize(
    ("name", "attack"),
    [
        ("never", RandomNoise),
        ("paper", Square),  # whose reported successes are voted on
        pytest.param("paper", RandomNoise, marks=pytest.mark.slow),
        ("sequential", RandomNoise),
        pytest.param("sequential", Square, marks=pytest.mark.slow),
        ("single", RandomNoise),
    ],
)
def test_a_shipped_criterion_passes_all_checks(name, attack):
    check_criterion(component("criterion", name), attack=attack)


def test_every_shipped_criterion_is_checked():
    (mark,) = test_a_shipped_criterion_passes_all_checks.pytestmark
    assert {getattr(case, "values", case)[0] for case in mark.args[1]} == set(NAMES["criterion"])


def test_never_evaluates_nothing_during_the_attack():
    subject = Subject(criterion_named("never", 60), RandomNoise)
    for record in subject.run(IidVictim(normal(0.6), right_at_gray=True), gray(4), budget=9).records:
        assert record.candidates > 0
        assert record.criterion == record.clean_evaluations + record.final_evaluations
        assert record.attack == 9


def test_a_criterion_that_is_not_defined_for_the_attack_says_so():
    class Targeted(PGD):
        has_targeted_form = True

    with pytest.raises(UserError, match="paper"):
        check_criterion(component("criterion", "paper"), attack=Targeted)


# 200 images and 60 queries. A right image is ever called adversarial, during the attack or at its final point, with a
# probability of at most 5 %, a wrong one at 60 % with at least 99 %; each bound has room that chance leaves once in
# 100,000 runs.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "adversarial"),
    [pytest.param(0.2, False, marks=pytest.mark.slow), (0.45, False), pytest.param(0.6, True, marks=pytest.mark.slow)],
)
def test_the_default_criterion_keeps_its_bounds(wrong, adversarial):
    criterion = criterion_named("sequential", 400 if adversarial else 200)
    options = {"criterion": criterion, "deterministic": False, "batch_size": 2000}
    victim, y = IidVictim(normal(wrong), right_at_gray=True), torch.zeros(200, dtype=torch.int64)
    records = Run(victim, RandomNoise(eps=0.1), gray(200), y, budget=60, pool_size=200, **options).records
    called = sum(record.success_query is not None or record.verdict == "adversarial" for record in records)
    if adversarial:
        assert called >= stats.binom.ppf(1e-5, 200, 0.99)
    else:
        assert called <= stats.binom.isf(1e-5, 200, 0.05)
        assert sum(record.voted_candidates for record in records) > 200


class Votes(SuccessCriterion):
    """Passes all checks: the majority of three evaluations."""

    def first_evaluations(self, attack):
        return 3


class Patient(Votes):
    """Looks adversarial as long as it wants more evaluations: two, twice."""

    def conclude(self, images, rows):
        wanted = 2 * (images.evaluations.count[rows] < 7)
        return Conclusion(wanted, (wanted > 0) | majority(images, rows).adversarial)


def test_a_candidate_counts_as_adversarial_only_when_its_decision_is_final():
    victim = IidVictim(normal(0.2), right_at_gray=True)
    run = Subject(Patient(60), RandomNoise).run(victim, gray(8), budget=10)
    assert sum(run.log.started.values()) > 8
    for record in run.records:
        assert run.log.requested[run.key(record)] == 7 * record.voted_candidates
        assert record.success_query is None


def test_half_of_the_evaluations_is_no_majority():
    evaluations = SimpleNamespace(adversarial=torch.tensor([1, 2, 2]), count=torch.tensor([2, 3, 4]))
    found = majority(SimpleNamespace(evaluations=evaluations), torch.arange(3))
    assert found.adversarial.tolist() == [False, True, False]
    assert found.more.tolist() == [0, 0, 0]


# Faults: each is a criterion that breaks one rule, with words of the message.


class IgnoresTheLimit(Votes):
    def __init__(self, final_evaluations):
        super().__init__()


class SelectsEveryQuery(Votes):
    def candidates(self, queries, images):
        return torch.ones_like(queries.adversarial)


class SelectsByPosition(Votes):
    def candidates(self, queries, images):
        return queries.adversarial.nonzero()[:, 0]


class SelectsLate(Votes):
    """Asks an image's second candidate alone, and counts over images."""

    def open(self, y):
        return {"seen": torch.zeros_like(y)}

    def candidates(self, queries, images):
        candidates = super().candidates(queries, images)
        images.criterion["seen"] += candidates.sum()
        return candidates & (images.criterion["seen"][queries.rows] > 1)


class OpensAList(Votes):
    def open(self, y):
        return {"failures": [0] * len(y)}


class WantsFractions(Votes):
    def first_evaluations(self, attack):
        return 1.5


class LosesARow(Votes):
    def points(self, candidates):
        return candidates.points[:1, :1]


class AnswersShares(Votes):
    def conclude(self, images, rows):
        found = super().conclude(images, rows)
        return Conclusion(found.more.double(), found.adversarial)


class TakesBack(Votes):
    def conclude(self, images, rows):
        found = super().conclude(images, rows)
        return Conclusion(found.more - 1, found.adversarial)


class SetsThePhase(Votes):
    def conclude(self, images, rows):
        images.points.phase[rows] = 1
        return super().conclude(images, rows)


class WritesTheSuccess(Votes):
    def conclude(self, images, rows):
        images.candidates.success_query[rows] = 1
        return super().conclude(images, rows)


class NeverEnds(Votes):
    def conclude(self, images, rows):
        tied = images.evaluations.mean_margin(rows) == 0
        return Conclusion(100 * tied, majority(images, rows).adversarial)


class CountsOnItself(Votes):
    calls = 0

    def conclude(self, images, rows):
        self.calls += 1
        return super().conclude(images, rows)


class FollowsTheBatch(Votes):
    def conclude(self, images, rows):
        votes = images.evaluations.adversarial[rows].double()
        return Conclusion(torch.zeros_like(rows), votes >= votes.mean())


class DrawsLots(Votes):
    def conclude(self, images, rows):
        return Conclusion(torch.zeros_like(rows), torch.rand(len(rows)) < 0.5)


class ClaimsTooMuch(SequentialCriterion):
    """Takes the bets of the test as proof, whatever they have won."""

    level, passes = 1e3, 1e-9


class IgnoresTheTarget(SingleCriterion):
    def candidates(self, queries, images):
        return queries.logits.argmax(1) != queries.state["y"]

    def points(self, candidates):
        return candidates.points


class BelievesEveryQuery(SingleCriterion):
    def candidates(self, queries, images):
        return torch.ones_like(queries.adversarial)

    def points(self, candidates):
        return candidates.points


class BetsForOthers(Votes):
    def conclude(self, images, rows):
        images.evaluations.bet(torch.arange(len(images.evaluations.count)))
        return super().conclude(images, rows)


FAULTS = [
    (IgnoresTheLimit, "final_evaluations"),
    (SelectsEveryQuery, "a query that is not adversarial"),
    (SelectsByPosition, "candidates has shape and dtype"),
    (SelectsLate, "depend"),
    (OpensAList, "open returned failures"),
    (WantsFractions, "first_evaluations returned 1.5"),
    (LosesARow, "points has shape"),
    (AnswersShares, "Conclusion.more has shape and dtype"),
    (TakesBack, "negative"),
    (SetsThePhase, "changed points.phase"),
    (WritesTheSuccess, "changed candidates.success_query"),
    (CountsOnItself, "attributes"),
    (BelievesEveryQuery, "select adversarial answers alone"),
    (BetsForOthers, "changed evaluations."),
]


@pytest.mark.parametrize(("fault", "named"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_faulty_criterion_is_named(fault, named):
    with pytest.raises(AssertionError) as caught:
        check_criterion(fault)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("check", "fault", "named"),
    [
        (check_equal_runs, FollowsTheBatch, "decided in the same call"),
        (check_equal_runs, DrawsLots, "two equal runs"),
        (check_targeted, IgnoresTheTarget, "target"),
        (check_ties, NeverEnds, "undecided after 2000"),
        pytest.param(check_error, ClaimsTooMuch, "called adversarial", marks=pytest.mark.slow),
    ],
)
def test_a_fault_is_named_by_its_check(check, fault, named):
    with pytest.raises(AssertionError, match=named):
        check(Subject(fault(100), RandomNoise))


@pytest.mark.parametrize(
    ("rule", "phase", "wrong"),
    others_slow(
        [
            ("sequential", Phase.CANDIDATE, 0.7),
            ("test_criterion_contract.Votes", Phase.CANDIDATE, 0.7),
            ("sequential", Phase.INTERIM, 0.4),
        ],
        1,
        2,
    ),
)
def test_a_run_stopped_while_points_are_under_evaluation_is_resumed(rule, phase, wrong, tmp_path, monkeypatch):
    victim, seen, lost, attacked = IidVictim(normal(wrong), right_at_gray=True), [], {}, set()
    victim.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    options = {
        "attack": "random_noise", "eps": 0.1, "budget": 20, "criterion": rule, "final_evaluations": 40, "pool_size": 4,
        "batch_size": 40, "sanity_checks": False, "out": tmp_path / "run",
    }  # fmt: skip
    evaluate = CriterionStep.evaluate

    def interrupt(step):
        images, occupied = step.pool.images, step.pool.occupied
        under_evaluation = images.points.phase[occupied] == phase
        attacked.update(step.pool.ids)
        if len(attacked) <= 6 or not under_evaluation.any():
            return evaluate(step)
        lost.update({name: int(column[occupied].sum()) for name, column in vars(images.counts).items()})
        raise KeyboardInterrupt

    data = gray(10), torch.zeros(10, dtype=torch.int64)
    with monkeypatch.context() as patch:
        patch.setattr(CriterionStep, "evaluate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rfd.evaluate(victim, data, **options)
    before = read_records(tmp_path / "run/records.jsonl")
    run = rfd.evaluate(victim, data, **options, resume=True)
    assert 0 < len(before) < len(run.records) == len({record.id for record in run.records}) == 10
    assert [record for record in run.records if record.id in {one.id for one in before}] == before
    assert lost["criterion"] > 0
    totals = run.facts.totals
    assert totals.attack == sum(record.attack for record in run.records) + lost["attack"]
    assert totals.criterion == sum(record.criterion for record in run.records) + lost["criterion"]
    assert totals.total == sum(seen)
    assert run.facts.attempts == 2
    for record in run.records:  # also those that were under evaluation before
        assert record.billed == record.attack == (record.success_query or 20)

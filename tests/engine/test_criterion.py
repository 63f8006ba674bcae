"""When images count as adversarial: error, power and cost, screen and tests, skipping, the criterion's own noise."""

import math
import sys
from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import Collector, Constant, Run, engine_of, images, others_slow
from scipy import stats
from torch import nn

from rfdlight.attacks import RandomNoise
from rfdlight.engine import Oracle, criterion_named
from rfdlight.engine.criteria.base import MAJORITY, SuccessCriterion, count_votes
from rfdlight.engine.criteria.sequential import SequentialCriterion
from rfdlight.engine.evaluations import EvaluationState
from rfdlight.errors import UserError
from rfdlight.records.records import HEAVY_TAIL
from rfdlight.testing.small_victims import Tied

CLEAN = 20  # evaluations of a clean image whose answers are all right
SCREEN = 8  # evaluations after which the screen passes a candidate whose answers are all wrong


class Gaussian(nn.Module):
    """Ignores the image; the margin of class 0 is normal with deviation 1, and negative with probability p."""

    def __init__(self, p):
        super().__init__()
        self.mean = -stats.norm.ppf(p)

    def forward(self, x):
        logits = torch.zeros(len(x), 2)
        logits[:, 0] = self.mean + torch.randn(len(x))
        return logits


class AfterClean(Gaussian):
    """Like that, but always right at the clean image, whose pixels are all 0.5."""

    def forward(self, x):
        logits = super().forward(x)
        logits[(x == 0.5).flatten(1).all(1), 0] = 1.0
        return logits


def attacked(victim, criterion=None, count=200, budget=100):
    """Records of random noise against a victim of one class, and criterion rows per row of the attack."""
    x, y = torch.full((count, 1, 2, 2), 0.5), torch.zeros(count, dtype=torch.int64)
    run = Run(
        victim, RandomNoise(eps=0.1), x, y,
        budget=budget, batch_size=10 * count, pool_size=count,
        criterion=criterion or criterion_named("sequential", 400), deterministic=False,
    )  # fmt: skip
    assert all(record.attack > 0 for record in run.records)
    judged = run.total["criterion"] - sum(r.clean_evaluations for r in run.records)
    judged -= sum(r.final_evaluations for r in run.records if r.success_query is None)
    return run.records, judged / run.total["attack"]


def called(records):
    """Number of images that the criterion or the final evaluation called adversarial."""
    return sum(r.success_query is not None or r.verdict == "adversarial" for r in records)


class TwoPoints(nn.Module):
    """A margin of -1, or rarely a large one on the right side, with a mean of zero; right at the clean image."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, x):
        large = torch.rand(len(x)) < self.share
        margin = torch.where(large, 1 / self.share - 1, -1.0)
        margin[(x == 0.5).flatten(1).all(1)] = 1.0
        return torch.stack([margin, torch.zeros_like(margin)], 1)


# The bound is 5 %. Candidates are rejected at the first mean of the label, and then some are skipped: the error is far
# smaller: none of these 200 images is called, or one.
@pytest.mark.parametrize("victim", others_slow([AfterClean(0.5), TwoPoints(0.2)], 1), ids=["normal", "two"])
def test_images_whose_mean_margin_is_not_negative_are_rarely_called_adversarial(victim):
    records, _ = attacked(victim)
    assert called(records) <= 4


@pytest.mark.slow
@pytest.mark.parametrize(("p", "most"), others_slow([(0.1, 0.1), (0.4, 0.5)], 1))
def test_candidates_cost_little_at_robust_images(p, most):
    records, ratio = attacked(AfterClean(p))
    assert ratio <= most
    assert sum(record.voted_candidates for record in records) > 200


@pytest.mark.slow
def test_images_with_a_negative_mean_margin_are_called_adversarial_soon():
    records, _ = attacked(AfterClean(0.7))
    assert called(records) >= 198
    assert np.median([r.success_query for r in records if r.success_query is not None]) <= 8


@pytest.mark.slow
def test_a_criterion_that_screens_and_tests_loosely_is_caught_by_the_error():
    criterion = criterion_named("sequential", 400)
    criterion.level, criterion.passes = 5.0, 1.0
    records, _ = attacked(AfterClean(0.5), criterion)
    assert called(records) > 40


@pytest.mark.parametrize("name", ["jury", "test_criterion.Gaussian", "test_criterion.nothing", "no_module.Jury"])
def test_a_name_that_is_no_criterion_is_refused(name):
    with pytest.raises(UserError, match=f"criterion.*{name}"):
        criterion_named(name)


def test_a_criterion_of_a_users_own_is_chosen_by_its_import_path():
    assert type(criterion_named("test_criterion.Votes", 70)) is sys.modules["test_criterion"].Votes
    assert criterion_named("test_criterion.Votes", 70).final_test.most == 70


class Votes(SuccessCriterion):
    """A criterion of a user's own: the majority of 9 votes at every candidate."""

    def first_evaluations(self, attack):
        return MAJORITY

    def conclude(self, images, rows):
        return count_votes(images, rows)


class Hasty(Votes):
    """Calls its votes the final evaluations, at points that leave [0, 1]."""

    reaches_verdict = True

    def points(self, candidates):
        return candidates.points + 2

    def conclude(self, images, rows):
        assert images.points.point[rows].max() <= 1
        return super().conclude(images, rows)


@pytest.mark.parametrize("p", [0.3, 0.9])
def test_a_success_before_the_final_test_decides_gets_final_evaluations(p):
    records, _ = attacked(AfterClean(p), Hasty(400), count=20, budget=60)
    assert any(record.success_query is not None for record in records)
    assert all(record.final_evaluations >= (20 if p < 0.5 else 40) for record in records)
    assert {record.verdict for record in records} == {"robust" if p < 0.5 else "adversarial"}
    assert max(record.linf for record in records) <= 0.1 + 1e-6


@pytest.mark.slow
def test_the_votes_alone_would_break_most_images_that_are_wrong_once_in_five_draws():
    # Decision 13: a fixed vote of 9 that is repeated at each query breaks 63 % within 250 queries at p = 0.2,
    # and 32 % within 100.
    records, _ = attacked(AfterClean(0.2), Votes(40))
    adversarial = sum(record.success_query is not None for record in records)
    # 200 images: six standard errors around 32 %.
    assert abs(adversarial / 200 - 0.325) <= 6 * math.sqrt(0.325 * 0.675 / 200)


class Scripted:
    """In the place of the oracle: answers from a script and keeps a log; it has no padding."""

    precision = "float32"
    spare = 0

    def __init__(self, batch_size, script):
        self.batch_size = batch_size
        self.script = script
        self.log = []

    def scores(self, points, clock, purpose):
        logits = torch.zeros(len(points), 2)
        for row in range(len(points)):
            wrong = self.script(purpose, points[row], len(self.log))
            self.log.append((purpose, int(clock[row]), wrong))
            logits[row, int(wrong)] = 1
        return logits


def scripted(oracle, x, budget, criterion, attack=None):
    observer = Collector()
    options = {"budget": budget, "pool_size": len(x), "deterministic": False}
    engine = engine_of(oracle, attack or RandomNoise(eps=1e-3), observer, criterion, **options)
    engine.submit(x, torch.zeros(len(x), dtype=torch.int64), [f"{i:04d}" for i in range(len(x))])
    engine.run()
    return sorted(observer.records, key=lambda record: record.id)


class Loops:
    """The criterion at one candidate whose answers have margins of 1 and -1, by plain loops."""

    def __init__(self, answers):
        self.answers = [-1.0 if wrong else 1.0 for wrong in answers]
        self.used, self.stake = 0, 0.0

    def stage(self, looks, ends):
        """Evaluate up to each look; return the first end, or None at a mean of the label or after the last look."""
        seen, wealth = [], 1.0
        for look in looks:
            for margin in self.answers[self.used : self.used + look - len(seen)]:
                wealth *= 1 - self.stake * margin
                seen.append(margin)
                self.used += 1
            if sum(seen) >= 0:
                return False
            if ends(seen, wealth):
                return True
            self.stake = min(-sum(seen) / (len(seen) + 2), 0.25)
        return False

    def judge(self):
        """Whether the candidate passes the screen, and whether it is adversarial."""
        screened = self.stage([1, 2, 4, 8, 16, 32], lambda seen, wealth: wealth >= 4)
        if not screened:
            return False, False

        def certain(seen, wealth):
            mean = sum(seen) / len(seen)
            share = (max(seen) - mean) ** 2 / max(sum((m - mean) ** 2 for m in seen), 1e-9)
            return len(seen) >= 40 and share <= 0.25 and wealth >= math.pi**2 / 6 / 0.025

        return True, self.stage(
            [4, 5, 7, 9, 12, 15, 19, 20, 25, 32, 40, 50, 63, 79, 99, 124, 155, 194, 243, 304, 380, 400], certain
        )


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_the_engine_judges_a_candidate_as_plain_loops_do_for_every_period_of_nine_answers(step):
    # The nine pixels of an image hold its answers, which repeat; at clean images and final points all are right.
    periods = torch.tensor(list(product([0.0, 1.0], repeat=9))[::step])
    expected = [Loops(period * 60) for period in periods.bool().tolist()]
    judged = [loops.judge() for loops in expected]
    visits = [0] * len(periods)

    def script(purpose, point, _):
        if purpose == "attack":
            return True
        row = int((point.flatten().round() * 2 ** torch.arange(8, -1, -1)).sum()) // step
        visits[row] += 1
        number = visits[row] - 1 - CLEAN
        return bool(periods[row][number % 9]) if 0 <= number < expected[row].used else False

    records = scripted(Scripted(512, script), periods.view(-1, 1, 3, 3), 1, criterion_named("sequential"))
    for record, loops, (tested, adversarial) in zip(records, expected, judged, strict=True):
        assert record.tested_candidates == tested
        assert record.success_query == (1 if adversarial else None)
        assert record.verdict == ("adversarial" if adversarial else "robust")
        assert record.criterion == CLEAN + loops.used + (0 if adversarial else 20)
        assert record.first_9_vote_success is None
    kinds = {
        (tested, adversarial, loops.used > 60) for loops, (tested, adversarial) in zip(expected, judged, strict=True)
    }
    # Rejected by the screen, soon and late by the test; adversarial soon and late.
    assert kinds >= {(False, False, False), (True, False, False), (True, True, False), (True, True, True)}


def test_after_the_fth_failure_f_candidates_pass_unjudged():
    oracle = Scripted(1, lambda purpose, *_: purpose == "attack")
    (record,) = scripted(oracle, torch.full((1, 1, 2, 2), 0.5), 100, criterion_named("sequential"))
    judged = [clock for purpose, clock, _ in oracle.log[CLEAN:-20] if purpose == "criterion"]
    # Failures at the queries 1, 3, 6, 10, ...: after the f-th, f are skipped. The clock counts queries before. One
    # evaluation rejects each.
    assert judged == [f * (f + 1) // 2 - 1 for f in range(1, 14)]
    assert record.voted_candidates == 13
    assert record.candidates == record.attack == 100
    assert record.tested_candidates == 0


def rejected_before(number):
    """A script: all queries are wrong; so many candidates pass the screen and fail the test, then one is wrong."""
    visits = {}

    def script(purpose, point, _):
        if purpose == "attack" or bool((point == 0.5).all()):
            return purpose == "attack"
        key = tuple(point.flatten().tolist())
        visits[key] = visits.get(key, 0) + 1
        return visits[key] <= SCREEN or len(visits) > number

    return script


# A wealth of 1.25^40 = 7523 suffices for the 10th test, whose level is 0.025 * 6 / (pi * 10)^2 = 1 / 6580, but not for
# the 11th; the 20th needs a wealth of 26,319.
@pytest.mark.parametrize(
    ("number", "evaluations"), [(0, 40), (9, 40), (10, 50), pytest.param(19, 50, marks=pytest.mark.slow)]
)
def test_the_level_of_a_test_falls_with_its_number(number, evaluations):
    oracle = Scripted(1, rejected_before(number))
    (record,) = scripted(oracle, torch.full((1, 1, 6, 6), 0.5), 300, criterion_named("sequential"))
    assert record.tested_candidates == record.voted_candidates == number + 1
    assert record.success_query == (number + 1) * (number + 2) // 2
    assert record.final_evaluations == record.final_adversarial == evaluations
    assert record.criterion == CLEAN + number * (SCREEN + 4) + SCREEN + evaluations
    assert record.verdict == "adversarial"


def test_what_is_broken_is_the_candidate_and_its_query():
    # Queries 1 to 3 are right, 4 is wrong, and so is every evaluation of its point.
    queries = []

    def script(purpose, point, _):
        if purpose == "attack":
            queries.append(point.clone())
        return len(queries) == 4

    x = torch.full((1, 1, 2, 2), 0.5)
    oracle = Scripted(1, script)
    (record,) = scripted(oracle, x, 100, criterion_named("sequential"))
    assert record.success_query == record.attack == 4
    assert record.first_9_vote_success is None
    assert record.verdict == record.majority_verdict == "adversarial"
    assert record.final_adversarial == record.final_evaluations == 40
    assert (record.final_margin, record.final_prediction, record.final_tail_share) == (-1, 1, 0)
    assert record.criterion == CLEAN + SCREEN + 40
    assert record.linf == pytest.approx(float((queries[3] - 0.5).abs().max()))
    assert all(clock == 3 for purpose, clock, _ in oracle.log[1:] if purpose == "criterion" and clock)


@pytest.mark.parametrize("eot", [1, 3])
def test_the_criterion_evaluates_singly_whatever_a_query_averages(eot):
    oracle = Scripted(3, rejected_before(1))
    observer = Collector()
    engine = engine_of(
        oracle, RandomNoise(eps=1e-3), observer, criterion_named("sequential"),
        budget=30, pool_size=1, deterministic=False, eot=eot,
    )  # fmt: skip
    engine.submit(torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64), ["0"])
    engine.run()
    (record,) = observer.records
    assert record.success_query == record.attack == 3 * eot
    assert record.criterion == CLEAN + 2 * SCREEN + 4 + 40


def test_an_image_found_wrong_ends_with_its_clean_evaluations():
    oracle = Scripted(4, lambda *_: True)
    (record,) = scripted(oracle, torch.full((1, 1, 2, 2), 0.5), 5, criterion_named("sequential"))
    assert (record.clean_verdict, record.verdict) == ("wrong", "misclassified")
    assert record.attack == record.billed == record.linf == 0
    assert record.criterion == record.clean_evaluations == record.final_evaluations == 40
    assert record.final_adversarial == record.clean_wrong == 40
    assert record.final_margin == record.clean_margin == -1
    assert not record.clean_correct
    assert not record.is_robust


@pytest.mark.parametrize("label", [0, 1])
def test_ties_of_a_random_victim_are_undecided_and_no_success(label):
    x, y = images(3, (1, 2, 2)), torch.full((3,), label)
    criterion = criterion_named("sequential", 50)
    run = Run(Tied(), RandomNoise(eps=0.1), x, y, budget=6, criterion=criterion, deterministic=False)
    for record in run.records:
        assert (record.clean_verdict, record.verdict) == ("undecided", "undecided")
        assert record.clean_evaluations == record.final_evaluations == 50
        assert record.attack == 6
        assert record.success_query is None
        assert record.tested_candidates == 0
        assert record.is_robust
        # The first of the equal classes is the answer; as label 1, each candidate gets the whole screen.
        assert record.voted_candidates == (0 if label == 0 else 3)
        assert record.criterion == 100 + 32 * record.voted_candidates


@pytest.mark.parametrize(("label", "verdict"), [(0, "robust"), (1, "misclassified")])
def test_ties_of_a_deterministic_victim_go_to_the_first_class(label, verdict):
    x, y = images(3, (1, 2, 2)), torch.full((3,), label)
    run = Run(Tied(), RandomNoise(eps=0.1), x, y, budget=2)
    assert {record.verdict for record in run.records} == {verdict}
    assert {record.final_adversarial for record in run.records} == {label}
    assert {record.is_robust for record in run.records} == {label == 0}


def test_unfinished_images_count_as_the_finished_ones_will():
    class Coin(nn.Module):
        """Undecided at clean images, for most of which the mean of 40 has either sign; right elsewhere."""

        def forward(self, x):
            clean = (x == 0.5).flatten(1).all(1)
            margin = torch.where(clean, torch.randn(len(x)), 1.0)
            return torch.stack([margin, torch.zeros_like(margin)], 1)

    x, y, observer = torch.full((40, 1, 2, 2), 0.5), torch.zeros(40, dtype=torch.int64), Collector()
    options = {"budget": 5, "pool_size": 40, "deterministic": False}
    engine = engine_of(Oracle(Coin(), 40), RandomNoise(eps=0.1), observer, criterion_named("never", 40), **options)
    engine.submit(x, y, [f"{i:04d}" for i in range(40)])
    begun = 0
    while begun + len(observer.records) < 40:
        observer.passes = 1
        engine.run()
        begun, robust = engine.in_progress
    assert begun > 15
    robust += sum(record.is_robust for record in observer.records)
    observer.passes = None
    engine.run()
    assert robust == sum(record.is_robust for record in observer.records) == 40
    assert {record.clean_verdict for record in observer.records} >= {"undecided"}


@pytest.mark.parametrize(
    "rule", ["sequential", *(pytest.param(each, marks=pytest.mark.slow) for each in ("single", "never"))]
)
def test_a_final_point_is_decided_until_certain_at_most_so_many_evaluations(rule):
    class Uncertain(nn.Module):
        """Right by two deviations at clean images, by a fifth elsewhere."""

        def forward(self, x):
            clean = (x == 0.5).flatten(1).all(1)
            margin = torch.where(clean, 2.0, 0.2) + torch.randn(len(x))
            return torch.stack([margin, torch.zeros_like(margin)], 1)

    def records(most):
        x, y = torch.full((40, 1, 2, 2), 0.5), torch.zeros(40, dtype=torch.int64)
        return Run(
            Uncertain(), RandomNoise(eps=0.1), x, y,
            budget=2, batch_size=400, pool_size=40, criterion=criterion_named(rule, most), deterministic=False,
        ).records  # fmt: skip

    few, many = records(40), records(2000)
    assert {record.clean_verdict for record in many} == {"right"}
    assert np.median([record.clean_evaluations for record in many]) <= 21
    assert {record.final_evaluations for record in few if record.verdict == "undecided"} == {40}
    assert sum(record.verdict == "undecided" for record in few) >= 20
    assert sum(record.verdict == "robust" for record in many) >= 38
    assert max(record.final_evaluations for record in many) > 100
    for record in many:
        assert 20 <= record.final_evaluations <= 2000
        assert record.final_evaluations == 2000 or record.verdict != "undecided"
        assert record.final_tail_share <= HEAVY_TAIL


def test_candidates_outside_the_ball_are_never_judged():
    attack = RandomNoise(eps=0.1)
    attack._point = lambda state, number: (state["x"] + 0.11).clamp(0, 1)
    oracle = Scripted(1, lambda purpose, *_: purpose == "attack")
    criterion = criterion_named("single")
    (record,) = scripted(oracle, torch.full((1, 1, 2, 2), 0.5), 5, criterion, attack)
    assert record.candidates == 0
    assert record.success_query is None
    assert record.linf <= 0.1 + 1e-6


class Remembering(nn.Module):
    """Adds noise to its scores and remembers it."""

    def __init__(self):
        super().__init__()
        self.noise = []

    def forward(self, x):
        noise = torch.randn(len(x), 2)
        self.noise.append(noise.clone())
        return noise + torch.tensor([0.3, 0.0])


def attack_noise(rule, monkeypatch):
    victim, purposes = Remembering(), []
    scores = Oracle.scores

    def spy(oracle, points, clock, purpose):
        purposes.append(purpose)
        return scores(oracle, points, clock, purpose)

    with monkeypatch.context() as patch:
        patch.setattr(Oracle, "scores", spy)
        x, y = images(8, (1, 2, 2)), torch.zeros(8, dtype=torch.int64)
        criterion = criterion_named(rule, 40)
        Run(victim, RandomNoise(eps=0.1), x, y, budget=10, criterion=criterion, deterministic=False)
    # The harness asks once for the number of classes.
    return [noise for noise, purpose in zip(victim.noise[1:], purposes, strict=True) if purpose == "attack"], purposes


def test_criterion_draws_never_change_the_noise_of_an_attack(monkeypatch):
    plain, _ = attack_noise("never", monkeypatch)
    judged, purposes = attack_noise("sequential", monkeypatch)
    single, _ = attack_noise("single", monkeypatch)
    between = [a == "attack" and b == "criterion" for a, b in pairwise(purposes)]
    assert sum(between) >= 5, "the criterion did not draw between queries"
    for other in (judged, single):
        assert len(other) >= 3
        for ours, theirs in zip(plain, other, strict=False):
            assert torch.equal(ours, theirs)
    assert len({float(noise[0, 0]) for noise in plain}) == len(plain)


def test_oracle_forwards_leave_the_global_generator_alone():
    oracle = Oracle(Remembering(), 4)
    points, clock = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
    before = torch.get_rng_state()
    attack = oracle.scores(points, clock, "attack")
    criterion = oracle.scores(points, clock, "criterion")
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(attack, criterion)
    again = Oracle(Remembering(), 4)
    torch.rand(10)
    again.scores(points, clock, "criterion")
    assert torch.equal(again.scores(points, clock, "attack"), attack)


def test_the_conclusion_of_a_test_follows_wealth_count_and_mean():
    criterion, rows = SequentialCriterion(), torch.arange(7)
    y = torch.zeros(7, dtype=torch.int64)
    evaluations, own = EvaluationState.open(y, 2, 0), criterion.open(y)
    own.testing[:] = True
    # Enough for the first test, but not for the second; too few evaluations; the most; a mean of the label; one
    # contrary evaluation that carries the variance; enough for the second.
    count = torch.tensor([40, 40, 39, 400, 40, 40, 40])
    mean = torch.tensor([-1.0, -1, -1, -1, 0.1, -1, -1]).double()
    evaluations.count[:] = count
    evaluations.margins[:, 1] = mean * count
    evaluations.squares[:, 1] = count * (mean**2 + 1)
    evaluations.lowest[:, 1], evaluations.highest[:, 1] = -3, 1
    evaluations.highest[5, 1] = 2.5
    evaluations.rival[:] = 1
    first, second = (math.log(math.pi**2 * number**2 / 6 / 0.025) for number in (1, 2))
    evaluations.below[:] = (
        torch.tensor([first, first, first, first - 1, first, first, second], dtype=torch.float64) + 1e-9
    )
    own.tests = torch.tensor([1, 2, 1, 1, 1, 1, 2])
    state = SimpleNamespace(evaluations=evaluations, criterion=own)
    conclusion = criterion.conclude(state, rows)
    assert conclusion.adversarial.tolist() == [True, False, False, False, False, False, True]
    assert conclusion.more.tolist() == [0, 10, 1, 0, 0, 10, 0]
    assert own.skip.tolist() == own.failures.tolist() == [0, 0, 0, 1, 1, 0, 0]
    assert own.testing.tolist() == [False, True, True, False, False, True, False]


@pytest.mark.parametrize(
    ("rule", "adversarial"), [("sequential", True), ("single", True), ("paper", True), ("never", False)]
)
def test_a_deterministic_victim_is_believed_at_its_first_wrong_answer(rule, adversarial):
    class OnceMoved(nn.Module):
        def forward(self, x):
            moved = (x != 0.5).flatten(1).any(1)
            return nn.functional.one_hot(moved.long(), 2).float()

    x, y = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    run = Run(OnceMoved(), RandomNoise(eps=0.1), x, y, budget=6, criterion=criterion_named(rule))
    for record in run.records:
        assert record.attack == (1 if adversarial else 6)
        assert record.success_query == (1 if adversarial else None)
        assert record.criterion == (2 if rule in ("sequential", "single") else 3)
        assert record.verdict == "adversarial"


def test_a_robust_image_of_a_deterministic_victim_costs_the_criterion_three_rows():
    # One at the clean image, and two at the final point, where no query's answer is known.
    run = Run(Constant(), RandomNoise(eps=0.1), images(3), torch.zeros(3, dtype=torch.int64), budget=4)
    assert run.total["criterion"] == 9

"""Interim evaluations: the point that an attack would submit before its budget ends, behind a random victim."""

from collections import Counter

import pytest
import torch
from harness import Run
from scipy import stats
from torch import nn

from rfdlight.attacks import Attack, RandomNoise
from rfdlight.engine import criterion_named
from rfdlight.records.records import interim_queries
from rfdlight.records.summary import is_robust_at, success_query_of
from rfdlight.testing.small_victims import small_network

EPS = 0.1


class Hidden(Attack):
    """Queries the clean image alone; its submission is the brighter, the later, in as many equal parts as `plan` has.

    `plan` holds queries: after each of them, the submission is another one.
    """

    access = "score"
    plan: tuple[int, ...] = (20,)

    def init(self, x, y, seed):
        return {"step": torch.zeros_like(y)}

    def ask(self, state):
        return state["x"].clone()

    def tell(self, state, points, answer):
        state["step"] = state["step"] + 1

    def best(self, state):
        passed = (state["step"][:, None] > torch.tensor(self.plan)).sum(1)
        return state["x"] + EPS * (passed / len(self.plan))[:, None, None, None]


class Changing(Hidden):
    """Another submission after every query."""

    plan = tuple(range(50))


class Bright(nn.Module):
    """Answers gray images with class 0; brighter ones have a normal margin with a given mean and deviation."""

    def __init__(self, mean, deviation=1.0):
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, x):
        margin = self.mean + self.deviation * torch.randn(len(x))
        margin = torch.where(x.flatten(1).mean(1) > 0.5 + 1e-4, margin, 10 + torch.randn(len(x)))
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def run(victim, attack, count=10, budget=200, **options):
    torch.manual_seed(0)
    options = {
        "batch_size": 40 * count, "pool_size": count, "deterministic": False,
        "interim_queries": interim_queries(budget), "criterion": criterion_named("sequential", 400), **options,
    }  # fmt: skip
    x, y = torch.full((count, 1, 2, 2), 0.5), torch.zeros(count, dtype=torch.int64)
    done = Run(victim, attack, x, y, budget=budget, **options)
    assert sum(done.total.values()) == done.oracle.counter.rows
    ends_with_a_verdict = options["criterion"].reaches_verdict
    for record in done.records:
        rest = record.criterion - record.clean_evaluations - sum(each.evaluations for each in record.interim)
        decided = ends_with_a_verdict and record.success_query is not None
        assert rest == (0 if decided else record.final_evaluations)
    return done.records


def test_an_adversarial_submission_is_a_success_at_its_query_though_no_query_was_a_candidate():
    for record in run(Bright(-1), Hidden(EPS)):
        assert (record.success_query, record.billed, record.candidates, record.verdict) == (30, 30, 0, "adversarial")
        (found,) = record.interim  # after 10 queries it was the clean image
        assert (found.queries, found.verdict) == (30, "adversarial")
        assert (found.evaluations, found.margin) == (record.final_evaluations, record.final_margin)
        assert record.linf == pytest.approx(EPS)
        assert [is_robust_at(record, queries) for queries in (29, 30)] == [True, False]
    assert [success_query_of(each) for each in run(Bright(-1), Hidden(EPS), interim_queries=())] == [200] * 10


def test_an_undecided_submission_counts_by_its_sign_and_is_not_evaluated_again():
    records = run(Bright(-0.03), Hidden(EPS), count=20)
    undecided = [each for each in records if each.success_query is None]
    assert len(undecided) > 10
    for record in undecided:
        (found,) = record.interim
        assert (found.queries, record.billed) == (30, 200)
        assert found.verdict != "undecided" or 40 < found.evaluations <= 100
        for queries in (30, 199):
            assert is_robust_at(record, queries) == (found.margin >= 0)
    assert {each.interim[0].margin < 0 for each in undecided} == {True, False}


def test_the_sign_of_an_adversarial_submission_is_not_lost_by_an_early_end():
    # 0.7 deviations: a rejection at the first positive mean, as of candidates, would lose about a third of them.
    records = run(Bright(-0.7), Hidden(EPS), count=40)
    assert all(each.interim[0].margin < 0 for each in records)
    assert sum(each.success_query == 30 for each in records) > 10


def test_other_submissions_are_evaluated_anew():
    for record in run(Bright(1), Changing(EPS), budget=400, count=4):
        assert [found.queries for found in record.interim] == [10, 30, 100]  # from query 50 on it is the same
        assert {found.verdict for found in record.interim} == {"robust"}
        assert all(20 <= found.evaluations < 100 for found in record.interim)


def test_interim_queries_are_those_that_a_smaller_budget_would_leave():
    for record in run(Bright(1), Changing(EPS), eot=4, count=2):
        assert [found.queries for found in record.interim] == [8, 28, 100]


@pytest.mark.slow
def test_many_interim_evaluations_keep_the_error_probability():
    count, every = 20, tuple(range(1, 16))
    records = run(Bright(0), Changing(EPS), count=count, budget=16, interim_queries=every)
    assert sum(len(record.interim) for record in records) > 12 * count
    called = sum(record.success_query is not None for record in records)
    assert called <= stats.binom.isf(1e-5, count, 0.025)


class Script(nn.Module):
    """Margins of 1 and -1: the first 12 evaluations of the first submission are wrong, and all of the second."""

    def __init__(self):
        super().__init__()
        self.visits = Counter()

    def forward(self, x):
        margins = []
        for mean in x.flatten(1).mean(1).tolist():
            key = round((mean - 0.5) / EPS * 2)
            self.visits[key] += 1
            margins.append(-1.0 if key == 2 or (key == 1 and self.visits[key] <= 12) else 1.0)
        return torch.stack([torch.tensor(margins), torch.zeros(len(x))], 1)


# Stakes of 1/4 from the fifth evaluation on: the wealth is at least 4 at the look after 12. Then the k-th test needs a
# wealth of 1645 k^2: 34 more evaluations in the first, up to the look after 50, and 40 in the second.
@pytest.mark.parametrize(("plan", "evaluations"), [((-1, 5), 50), ((5, 20), 63)])
def test_a_test_begins_anew_at_the_level_of_its_number(plan, evaluations):
    attack = Hidden(EPS)
    attack.plan = plan  # the one without the first submission, the other with both
    options = {"criterion": criterion_named("sequential", level=0.001), "batch_size": 1}
    (record,) = run(Script(), attack, count=1, budget=50, **options)
    assert (record.interim[-1].verdict, record.interim[-1].evaluations) == ("adversarial", evaluations)


def test_records_do_not_depend_on_the_images_beside():
    victim = Bright(0, 0)
    victim.forward = lambda x: torch.stack([1.0 - 15 * (x.flatten(1).mean(1) - 0.5), torch.zeros(len(x))], 1)
    expected = run(victim, Changing(EPS), count=4)
    assert {len(record.interim) for record in expected} == {3}
    assert {record.success_query for record in expected} == {100}
    options = {"pool_size": 2, "batch_size": 5, "order": [3, 0, 1, 2]}
    assert run(victim, Changing(EPS), count=4, **options) == expected


def test_a_deterministic_victim_has_none_and_the_records_that_it_has_without():
    network, x = small_network(), torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y = network(x).argmax(1)
    plain, asked = (
        Run(network, RandomNoise(eps=0.02), x, y, budget=40, interim_queries=queries).records
        for queries in ((), (10, 30))
    )
    assert plain == asked
    assert {record.interim for record in asked} == {()}


@pytest.mark.parametrize("rule", ["single", "never", "paper"])
def test_other_criteria_have_none(rule):
    for record in run(Bright(-1), RandomNoise(EPS), criterion=criterion_named(rule, 40), count=2, budget=12):
        assert record.interim == ()

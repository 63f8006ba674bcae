"""Query policies: what is refused is billed, reaches neither victim nor `tell`, and ends the attack or not."""

import pytest
import torch
from harness import Constant, Run, images

import rfdlight as rfd
from rfdlight.attacks import Attack, RandomNoise
from rfdlight.defenses import Blacklight, QueryPolicy
from rfdlight.errors import UserError
from rfdlight.testing.small_victims import small_network

BUDGET = 12


class Third(QueryPolicy):
    """Detects every third query of an image, whatever its account; keeps the accounts that it has seen."""

    def begin(self, seed):
        self.seen = {}
        self.begun = [*getattr(self, "begun", []), seed]

    def detect(self, points, accounts):
        found = []
        for account in accounts:
            seen = self.seen.setdefault(account.rpartition("#")[0], [])
            seen.append(int(account.rpartition("#")[2]))
            found.append(len(seen) % 3 == 0)
        return torch.tensor(found)

    def describe(self, model):
        return f"Third {self.action}"


class Brighter(Attack):
    """Queries one brighter point after the other, and submits the last that was answered."""

    access = "score"
    goes_on = True

    def init(self, x, y, seed):
        return {"step": torch.zeros_like(y), "answered": torch.zeros_like(y), "queries": torch.zeros_like(y)}

    def _point(self, state, step):
        return (state["x"] + step[:, None, None, None] * self.eps / BUDGET).clamp(0, 1)

    def ask(self, state):
        state["asked"] = state["step"] + 1
        return self._point(state, state["asked"])

    def tell(self, state, points, answer):
        assert torch.equal(points, self._point(state, state["asked"]))
        assert len(answer) == len(points)
        state["step"] = state["answered"] = state["asked"]
        state["queries"] = state["queries"] + 1

    def refused(self, state, points):
        assert torch.equal(points, self._point(state, state["asked"]))
        state["step"] = state["asked"]
        return self.goes_on

    def best(self, state):
        return self._point(state, state["answered"])


class Ending(Brighter):
    goes_on = False


def run(attack, policy, count=5, **options):
    y = torch.zeros(count, dtype=torch.int64)
    return Run(Constant(), attack(eps=0.1), images(count), y, budget=BUDGET, policy=policy, **options)


def numbers(record):
    return (record.billed, record.attack, record.refused, record.accounts, record.detected, record.first_detected)


@pytest.mark.parametrize(
    ("attack", "action", "expected", "submitted"),
    [
        (Brighter, "flag", (12, 12, 0, 1, 4, 3), 12),
        (Brighter, "refuse", (12, 8, 4, 1, 4, 3), 11),
        (Brighter, "ban", (12, 8, 4, 5, 4, 3), 11),
        (Ending, "flag", (12, 12, 0, 1, 4, 3), 12),
        (Ending, "refuse", (3, 2, 1, 1, 1, 3), 2),
        (Ending, "ban", (3, 2, 1, 2, 1, 3), 2),
    ],
)
@pytest.mark.parametrize("lockstep", [False, True])
def test_refused_queries_are_billed_and_not_answered(attack, action, expected, submitted, lockstep):
    policy = Third(action)
    made = run(attack, policy, lockstep=lockstep, pool_size=3)
    assert [numbers(record) for record in made.records] == [expected] * 5
    assert [round(record.linf / 0.1 * BUDGET) for record in made.records] == [submitted] * 5
    assert made.total["attack"] == 5 * expected[1]
    made.engine.ledger.check(made.oracle.forwarded)
    accounts = [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4] if action == "ban" else [1] * 12
    assert list(policy.seen.values()) == [accounts[: expected[0]]] * 5


def test_a_pass_of_refusals_alone_answers_nobody():
    made = run(Brighter, Third("refuse"), count=4)  # all in step: every third pass is refused
    assert [numbers(record)[:3] for record in made.records] == [(12, 8, 4)] * 4


def test_a_run_without_detections_is_that_without_a_policy():
    class Blind(Third):
        def detect(self, points, accounts):
            return torch.zeros(len(points), dtype=torch.bool)

    assert run(Brighter, Blind("ban")).records == run(Brighter, None).records


def test_a_policy_forgets_where_all_attacks_begin_again():
    policy = Third()
    made = run(Brighter, policy)
    made.engine.begin_again()
    assert policy.begun == [0, 0]
    assert policy.seen == {}


def evaluate(defense, attack="random_noise", **options):
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    victim = small_network()
    y = victim(x).argmax(1)
    settings = {"eps": 1e-4, "budget": 10, "defense": defense, "progress": False}
    return rfd.evaluate(victim, (x, y), attack=attack, **(settings | options))


@pytest.mark.parametrize("action", ["refuse", "ban"])
def test_blacklight_ends_an_attack_in_a_small_ball_at_its_second_query(action):
    run = evaluate(Blacklight(action))
    found = run.summary.detections
    assert (found.attacks.value, found.median_first, found.queries.value) == (1, 2, 0.5)
    assert (found.refused, found.accounts) == (4, 8 if action == "ban" else 4)
    assert run.queries.tolist() == [2] * 4
    assert run.is_consistent
    assert "attacks detected" in str(run)


def test_a_run_without_a_policy_has_no_detections_and_a_white_box_attack_is_not_inspected():
    assert evaluate(()).summary.detections is None
    assert evaluate(Blacklight(), attack="pgd").summary.detections.attacks.value == 0


@pytest.mark.parametrize(
    ("defense", "options", "message"),
    [
        (Blacklight(), {"eot": 2}, "^model.eot: expected 1, since a query policy sees"),
        (Blacklight(), {"query_counting": "paper", "attack": "square"}, "^model.query_counting: expected exact beside"),
        ([Blacklight(), Third()], {}, "^defense: expected at most one query policy, got 2; "),
    ],
)
def test_settings_that_a_policy_does_not_allow_are_refused(defense, options, message):
    with pytest.raises(UserError, match=message):
        evaluate(defense, **options)


def test_noise_beside_a_policy_still_acts():
    run = evaluate([rfd.LogitNoise(1.0), Blacklight("flag")], final_evaluations=40, batch_size=160)
    assert not run.facts.deterministic
    assert run.summary.detections.attacks.value > 0


def test_a_ledger_bills_refusals_and_counts_accounts():
    made = run(RandomNoise, Third("ban"), count=1)
    assert numbers(made.records[0]) == (3, 2, 1, 2, 1, 3)

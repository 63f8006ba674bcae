"""Repeated queries of RayS and SignFlip."""

import math
from itertools import product

import pytest
import torch

from rfdlight.attacks import RayS, SignFlip
from rfdlight.errors import UserError


def opened(attack, rows, size):
    """Points at a linf distance from x, and the columns of new decisions."""
    x, y = torch.zeros(rows, 1, 2, 2), torch.zeros(rows, dtype=torch.int64)
    return x + size, {"x": x, "balance": attack.init(x, y, y)["balance"]}


def decided_by_hand(answers, lead):
    """After how many answers the adversarial ones lead by `lead`, or the others by one; and whether they lead."""
    balance = 0
    for number, answer in enumerate(answers, 1):
        balance += 1 if answer else -1
        if balance == lead or balance < 0:
            return number, balance > 0
    return None


def check_decisions(attack, size):
    """Over all sequences of 9 answers: when a decision ends, and how."""
    sequences = list(product([False, True], repeat=9))
    answers, (points, state) = torch.tensor(sequences), opened(attack, len(sequences), size)
    expected = [decided_by_hand(sequence, attack.lead if size <= attack.eps else 1) for sequence in sequences]
    open_rows = torch.ones(len(sequences), dtype=torch.bool)
    for number in range(9):
        decided, outcome = attack.decide(state, points, answers[:, number])
        assert not (outcome & ~decided).any()
        for i in (decided & open_rows).nonzero()[:, 0].tolist():
            assert (number + 1, bool(outcome[i])) == expected[i], sequences[i]
            assert int(state["balance"][i]) == 0
        open_rows &= ~decided
    assert [i for i, end in enumerate(expected) if end is None] == open_rows.nonzero()[:, 0].tolist()


@pytest.mark.parametrize("size", [0.05, 0.06])
@pytest.mark.parametrize("lead", [1, 2, 4])
def test_a_decision_ends_once_adversarial_answers_lead_or_lag(lead, size):
    check_decisions(RayS(eps=0.05, lead=lead), size)
    check_decisions(SignFlip(eps=0.05, lead=lead), size)


@pytest.mark.parametrize("chance", [0.2, 0.4, 0.7])
def test_error_and_cost_are_those_of_a_gamblers_ruin(chance):
    # With r = (1 - p) / p, a point passes with chance (r - 1) / (r^(lead + 1) - 1); by Wald's identity a decision
    # takes (lead passes - failures) / (2 p - 1) answers on average.
    lead, rows = 3, 20_000
    attack, generator = SignFlip(eps=0.05, lead=lead), torch.Generator().manual_seed(0)
    points, state = opened(attack, rows, 0.01)
    taken, passed, open_rows = torch.zeros(rows), torch.zeros(rows), torch.ones(rows, dtype=torch.bool)
    for number in range(1, 200):
        decided, outcome = attack.decide(state, points, torch.rand(rows, generator=generator) < chance)
        ends = decided & open_rows
        taken[ends], passed[ends], open_rows = number, outcome[ends].float(), open_rows & ~ends
    assert not open_rows.any()
    r = (1 - chance) / chance
    share = (r - 1) / (r ** (lead + 1) - 1)
    mean = (lead * share - (1 - share)) / (2 * chance - 1)
    assert abs(float(passed.mean()) - share) <= 4.5 * math.sqrt(share * (1 - share) / rows)
    assert abs(float(taken.mean()) - mean) <= 4.5 * float(taken.std()) / rows**0.5


def test_a_lead_of_none_is_refused():
    for attack in (RayS, SignFlip):
        with pytest.raises(UserError, match=r"^attack.lead must be at least 1, got 0$"):
            attack(lead=0)


class EndsEarly(RayS):
    """Budget: a lead of one less is enough."""

    def decide(self, state, points, adversarial):
        whole, self.lead = self.lead, self.lead - 1
        decision = super().decide(state, points, adversarial)
        self.lead = whole
        return decision


class ReadsTheOpposite(RayS):
    """Sign: takes adversarial answers for the others."""

    def decide(self, state, points, adversarial):
        return super().decide(state, points, ~adversarial)


class RepeatsEverywhere(RayS):
    """Size: takes every point for one in the ball."""

    def decide(self, state, points, adversarial):
        return super().decide(state, state["x"], adversarial)


class NeverForgets(RayS):
    """Budget: answers to a point count for the next one."""

    def decide(self, state, points, adversarial):
        before = state["balance"].clone()
        decided, outcome = super().decide(state, points, adversarial)
        state["balance"] = torch.where(decided, before, state["balance"])
        return decided, outcome


@pytest.mark.parametrize("mutant", [EndsEarly, ReadsTheOpposite, RepeatsEverywhere, NeverForgets])
def test_a_mutant_is_caught(mutant):
    def check():
        for size in (0.05, 0.06):
            check_decisions(mutant(eps=0.05, lead=3), size)

    with pytest.raises(AssertionError):
        check()

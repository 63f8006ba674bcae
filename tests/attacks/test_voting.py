"""Repeated queries of attacks that read labels."""

import math
from itertools import product

import pytest
import torch

from rfdlight.attacks import RayS, SignFlip
from rfdlight.errors import UserError


def opened(attack, rows, decisions=0, differed=False):
    """The columns of new decisions, some decisions later."""
    state = attack.init(torch.zeros(rows, 1, 2, 2), torch.zeros(rows, dtype=torch.int64), torch.arange(rows))
    state["decisions"] += decisions
    state["differed"] |= differed
    return {name: state[name] for name in ("ballots", "balance", "decisions", "differed")}


def decided_by_hand(answers, lead, most):
    """After how many answers one kind leads by `lead`, or has the majority of `most`; and whether it is yes."""
    yes = no = 0
    for answer in answers:
        yes, no = yes + answer, no + (not answer)
        if abs(yes - no) >= lead or 2 * max(yes, no) > most:
            return yes + no, yes > no
    return None


def check_decision(attack, decisions, differed, verifying=False):
    """Over all sequences of 11 answers: the count, the outcome, and what is known afterwards."""
    sequences = list(product([False, True], repeat=11))
    answers, state = torch.tensor(sequences), opened(attack, len(sequences), decisions, differed)
    expected = []
    for sequence in sequences:
        if verifying:
            expected.append(decided_by_hand(sequence, attack.verify, attack.verify))
            continue
        if not differed:
            presumed = min(2, attack.lead) if decisions < 16 else 1
            if presumed == 1 or sequence[0] == sequence[1]:
                expected.append((presumed, sequence[0]))
                continue
        expected.append(decided_by_hand(sequence, attack.lead, 6 * attack.lead - 1))
    open_rows = torch.ones(len(sequences), dtype=torch.bool)
    for number in range(11):
        decided, outcome = attack.decide(state, answers[:, number], torch.full_like(open_rows, verifying))
        assert not (outcome & ~decided).any()
        for i in (decided & open_rows).nonzero()[:, 0].tolist():
            assert (number + 1, bool(outcome[i])) == expected[i], sequences[i]
            assert int(state["ballots"][i]) == int(state["balance"][i]) == 0
            assert int(state["decisions"][i]) == decisions + 1
            assert bool(state["differed"][i]) == (differed or len(set(sequences[i][: number + 1])) == 2)
        open_rows &= ~decided
        assert (state["ballots"][open_rows] == number + 1).all()
    assert {sequence for sequence, end in zip(sequences, expected, strict=True) if end is None} == {
        sequences[i] for i in open_rows.nonzero()[:, 0].tolist()
    }


CASES = [
    (options, *known)
    for options in ({"lead": 1}, {"lead": 2}, {"lead": 3})
    for known in ((0, False), (16, False), (20, True))
] + [({"lead": 2, "verify": 5}, 3, True, True)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_decision_ends_with_the_lead_or_with_the_majority(case):
    options, *known = case
    check_decision(RayS(**options), *known)


def test_the_lead_rule_has_the_error_and_the_cost_of_a_gamblers_ruin():
    # Answers right with probability p: the wrong side leads by L first with chance 1 / (1 + (p / q)^L), after
    # L (1 - 2 error) / (p - q) answers on average. The cap of 6 L - 1 hides less than 1 in 1,000 decisions.
    p, lead, rows = 0.85, 3, 20_000
    attack, generator = SignFlip(lead=lead), torch.Generator().manual_seed(0)
    state, none = opened(attack, rows, differed=True), torch.zeros(rows, dtype=torch.bool)
    taken, wrong, open_rows = torch.zeros(rows), none.clone(), ~none
    for number in range(1, 6 * lead):
        decided, outcome = attack.decide(state, torch.rand(rows, generator=generator) < p, none)
        ends = decided & open_rows
        taken[ends], wrong[ends], open_rows = number, ~outcome[ends], open_rows & ~ends
    assert not open_rows.any()
    error = 1 / (1 + (p / (1 - p)) ** lead)
    assert abs(float(wrong.float().mean()) - error) <= 4.5 * math.sqrt(error / rows)
    assert abs(float(taken.mean()) - lead * (1 - 2 * error) / (2 * p - 1)) <= 4.5 * float(taken.std()) / rows**0.5


def test_decisions_near_the_boundary_cost_more():
    attack, generator, rows = RayS(lead=3), torch.Generator().manual_seed(1), 2000
    chance = torch.tensor([0.5, 1.0]).repeat(rows // 2)
    state = opened(attack, rows, differed=True)
    ended = torch.zeros(rows)
    for _ in range(60):
        answers = torch.rand(rows, generator=generator) < chance
        ended += attack.decide(state, answers, torch.zeros(rows, dtype=torch.bool))[0]
    assert (ended[1::2] == 20).all()
    assert float(60 / ended[::2].mean()) > 7  # 9 without a cap


@pytest.mark.parametrize("verify", [-1, 2, 100])
def test_numbers_that_could_tie_are_refused(verify):
    with pytest.raises(UserError, match=f"^attack.verify must be odd and at least 1, got {verify}$"):
        SignFlip(verify=verify)


class EndsALeadEarly(RayS):
    """Budget: a lead of one less is enough."""

    def decide(self, state, adversarial, verifying):
        whole, self.lead = self.lead, 2
        decision = super().decide(state, adversarial, verifying)
        self.lead = whole
        return decision


class ReadsTheOpposite(RayS):
    """Sign: the side that lags decides."""

    def decide(self, state, adversarial, verifying):
        decided, _ = super().decide(state, adversarial, verifying)
        return decided, decided & ~adversarial


class ForgetsDifferences(RayS):
    """Reading: takes every victim for a deterministic one."""

    def decide(self, state, adversarial, verifying):
        decision = super().decide(state, adversarial, verifying)
        state["differed"] = torch.zeros_like(state["differed"])
        return decision


class NeverTrusts(RayS):
    """Schedule: the first decisions never end."""

    def decide(self, state, adversarial, verifying):
        known = state["decisions"]
        state["decisions"] = torch.zeros_like(known)
        decided, outcome = super().decide(state, adversarial, verifying)
        state["decisions"] = known + decided
        return decided, outcome


@pytest.mark.parametrize(
    ("mutant", "decisions", "differed"),
    [
        (EndsALeadEarly, 20, True),
        (ReadsTheOpposite, 20, True),
        (ForgetsDifferences, 0, False),
        (NeverTrusts, 16, False),
    ],
)
def test_a_mutant_is_caught(mutant, decisions, differed):
    with pytest.raises(AssertionError):
        check_decision(mutant(lead=3), decisions, differed)

"""Votes of attacks that read labels."""

from itertools import product

import pytest
import torch

from rfdlight.attacks import RayS, SignFlip
from rfdlight.errors import UserError


def opened(attack, rows):
    """The columns of new votes."""
    state = attack.init(torch.zeros(rows, 1, 2, 2), torch.zeros(rows, dtype=torch.int64), torch.arange(rows))
    return {name: state[name] for name in ("ballots", "hits")}


def check_votes(attack):
    """Over all sequences of answers: the majority's outcome, given at the first answer that makes it certain."""
    sequences = list(product([False, True], repeat=attack.votes))
    answers, state = torch.tensor(sequences), opened(attack, len(sequences))
    ended = [0] * len(sequences)
    for number in range(attack.votes):
        decided, outcome = attack.decide(state, answers[:, number], torch.zeros(len(sequences), dtype=torch.bool))
        for i, sequence in enumerate(sequences):
            if ended[i]:
                continue  # a new vote of this row has begun
            yes, asked = sum(sequence[: number + 1]), number + 1
            certain = yes > attack.votes // 2 or asked - yes > attack.votes // 2
            assert bool(decided[i]) == certain, (sequence, asked)
            if certain:
                ended[i] = asked
                assert bool(outcome[i]) == (2 * sum(sequence) > attack.votes), sequence
                assert int(state["ballots"][i]) == int(state["hits"][i]) == 0
            else:
                assert not outcome[i]
                assert (int(state["ballots"][i]), int(state["hits"][i])) == (asked, yes)
    assert min(ended) == (attack.votes + 1) // 2
    assert max(ended) == attack.votes


@pytest.mark.parametrize("votes", [1, 3, 5])
def test_a_vote_ends_with_the_majority_as_soon_as_it_is_certain(votes):
    check_votes(RayS(votes=votes))


def test_verifications_and_decisions_have_different_numbers_of_votes_and_start_anew():
    attack = SignFlip(votes=1, verify=3)
    state, verifying, yes = opened(attack, 2), torch.tensor([False, True]), torch.tensor([True, True])
    ended = [attack.decide(state, yes, verifying)[0].tolist() for _ in range(4)]
    assert ended == [[True, False], [True, True], [True, False], [True, True]]


@pytest.mark.parametrize("votes", [-1, 2, 100])
def test_numbers_that_could_tie_are_refused(votes):
    with pytest.raises(UserError, match=f"^attack.votes must be odd and at least 1, got {votes}$"):
        RayS(votes=votes)
    with pytest.raises(UserError, match=f"^attack.verify must be odd and at least 1, got {votes}$"):
        SignFlip(verify=votes)


class TiesEarly(RayS):
    """Budget: decides at half of the votes."""

    def decide(self, state, adversarial, verifying):
        whole, self.votes = self.votes, 3
        decision = super().decide(state, adversarial, verifying)
        self.votes = whole
        return decision


class NeedsAll(RayS):
    """Reading: a hit only if no answer is against it."""

    def decide(self, state, adversarial, verifying):
        decided, outcome = super().decide(state, adversarial, verifying)
        return decided, outcome & (self.votes == 1)


class Forgets(RayS):
    """Budget: never counts an answer that is no hit."""

    def decide(self, state, adversarial, verifying):
        before = state["ballots"]
        decision = super().decide(state, adversarial, verifying)
        state["ballots"] = torch.where(adversarial, state["ballots"], before)
        return decision


@pytest.mark.parametrize("mutant", [TiesEarly, NeedsAll, Forgets])
def test_a_mutant_is_caught(mutant):
    with pytest.raises(AssertionError):
        check_votes(mutant(votes=5))

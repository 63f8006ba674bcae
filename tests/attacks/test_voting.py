"""Votes of attacks that read labels."""

from itertools import product

import pytest
import torch

from rfdlight.attacks.voting import cast_vote, check_odd, open_votes
from rfdlight.errors import UserError


def check_votes(cast, votes, as_column):
    """Over all sequences of answers: the majority's outcome, given at the first answer that makes it certain."""
    sequences = list(product([False, True], repeat=votes))
    answers = torch.tensor(sequences)
    state = open_votes(torch.zeros(len(sequences), dtype=torch.int64))
    allowed = torch.full((len(sequences),), votes) if as_column else votes
    ended = [0] * len(sequences)
    for number in range(votes):
        decided, outcome = cast(state, answers[:, number], allowed)
        for i, sequence in enumerate(sequences):
            if ended[i]:
                continue  # a new vote of this row has begun
            yes, asked = sum(sequence[: number + 1]), number + 1
            certain = yes > votes // 2 or asked - yes > votes // 2
            assert bool(decided[i]) == certain, (sequence, asked)
            if certain:
                ended[i] = asked
                assert bool(outcome[i]) == (2 * sum(sequence) > votes), sequence
                assert int(state["ballots"][i]) == int(state["hits"][i]) == 0
            else:
                assert not outcome[i]
                assert (int(state["ballots"][i]), int(state["hits"][i])) == (asked, yes)
    assert min(ended) == (votes + 1) // 2
    assert max(ended) == votes


@pytest.mark.parametrize("as_column", [False, True])
@pytest.mark.parametrize("votes", [1, 3, 5])
def test_a_vote_ends_with_the_majority_as_soon_as_it_is_certain(votes, as_column):
    check_votes(cast_vote, votes, as_column)


def test_rows_may_vote_by_different_numbers():
    state = open_votes(torch.zeros(3, dtype=torch.int64))
    votes, yes = torch.tensor([1, 3, 5]), torch.tensor([True, True, True])
    ended = [cast_vote(state, yes, votes)[0].tolist() for _ in range(3)]
    # A row that is decided starts anew: the first one is decided by each answer.
    assert ended == [[True, False, False], [True, True, False], [True, False, True]]


def test_a_new_vote_starts_from_zero():
    state = open_votes(torch.zeros(1, dtype=torch.int64))
    answers = [True, False, True, False, False, True, True]
    decisions = [cast_vote(state, torch.tensor([answer]), 3) for answer in answers]
    assert [bool(decided) for decided, _ in decisions] == [False, False, True, False, True, False, True]
    assert [bool(outcome) for decided, outcome in decisions if decided] == [True, False, True]


@pytest.mark.parametrize("votes", [0, -1, 2, 100])
def test_numbers_that_could_tie_are_refused(votes):
    with pytest.raises(UserError, match=f"^attack.votes must be odd and at least 1, got {votes}$"):
        check_odd("votes", votes)


@pytest.mark.parametrize("votes", [1, 3, 99])
def test_odd_numbers_are_taken(votes):
    check_odd("votes", votes)


def ties_early(state, hit, votes):
    """Budget: decides at half of the votes."""
    return cast_vote(state, hit, votes // 2 + (votes // 2 + 1) % 2)


def needs_all(state, hit, votes):
    """Reading: a hit only if no answer is against it."""
    decided, outcome = cast_vote(state, hit, votes)
    return decided, outcome & hit & (votes == 1)


def forgets(state, hit, votes):
    """Budget: never counts an answer that is no hit."""
    before = state["ballots"]
    decided, outcome = cast_vote(state, hit, votes)
    state["ballots"] = torch.where(hit, state["ballots"], before)
    return decided, outcome


@pytest.mark.parametrize("mutant", [ties_early, needs_all, forgets])
def test_a_mutant_is_caught(mutant):
    with pytest.raises(AssertionError):
        check_votes(mutant, 5, False)

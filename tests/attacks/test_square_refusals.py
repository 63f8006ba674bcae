"""Square goes on after refusals with more squares per proposal, and other attacks end."""

import pytest
import torch
from attack_checks import points_under_refusals
from reference.draws import SquareDraws, signs, uniform
from reference.square import painted, point_of, side

import rfdlight as rfd
from rfdlight.attacks import AdaptiveSquare, Square
from rfdlight.defenses import Blacklight
from rfdlight.errors import UserError
from rfdlight.testing.small_victims import small_network

EPS, P, BUDGET, SIZE = 0.1, 0.1, 400, 8


def windows(seed, step, number, s):
    """The places of the windows after the first, and their colours, drawn one by one."""
    places = uniform(seed, 9, step, 2 * (number - 1))
    flat = signs(seed, 10, step, 3 * (number - 1))
    colours = [flat[start : start + 3] for start in range(0, len(flat), 3)]
    corners = [int(place * (SIZE - s)) for place in places]
    return list(zip(corners[::2], corners[1::2], colours, strict=True))


def adapted(x, seed, refused, losses):
    """The queries of one image, of which those with `refused` get no answer."""
    draws = SquareDraws(seed, 3, SIZE)
    kept = [[list(row) for _ in range(SIZE)] for row in draws.stripes()]
    lowest, doublings, points = float("inf"), 0.0, []
    for query, (is_refused, loss) in enumerate(zip(refused, losses, strict=True)):
        candidate = kept
        if query:
            s = side(query - 1, BUDGET, P, SIZE)
            top, left = (int(place * (SIZE - s)) for place in draws.corner(query - 1))
            paint = draws.paint(query - 1)
            candidate = painted(kept, top, left, s, paint)
            if candidate == kept:
                colours = [-paint[c] if flip else paint[c] for c, flip in enumerate(draws.other(query - 1))]
                candidate = painted(kept, top, left, s, colours)
            for down, across, colours in windows(seed, query, round(2**doublings), s):
                candidate = painted(candidate, down, across, s, colours)
        points.append(point_of(x, candidate, EPS))
        if is_refused:
            doublings = min(doublings + 1, 6)
            continue
        doublings = max(doublings - 1 / 8, 0)
        if loss < lowest:
            lowest, kept = loss, candidate
    return points


def test_each_refusal_doubles_the_squares_and_each_answer_takes_an_eighth_of_that_back():
    generator = torch.Generator().manual_seed(0)
    x, queries = torch.rand(3, 3, SIZE, SIZE, generator=generator), 40
    refused = torch.rand(queries, 3, generator=generator) < torch.tensor([0.0, 0.3, 0.9])
    losses = torch.randn(queries, 3, generator=generator)
    seed = torch.tensor([5, 6, 7])
    attack = Square(eps=EPS, p=P, on_refusal="adapt")
    made = points_under_refusals(attack, x, seed, refused, losses, budget=BUDGET)
    for i in range(3):
        expected = adapted(x[i], int(seed[i]), refused[:, i].tolist(), losses[:, i].tolist())
        for query, point in enumerate(expected):
            assert torch.equal(made[query][i], point), f"image {i}, query {query}"


def test_without_a_policy_adapting_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    victim, x = small_network(), torch.rand(4, 3, 16, 16, generator=generator)
    data = (x, victim(x).argmax(1))
    settings = {"budget": 30, "progress": False, "sanity_checks": False}
    runs = [rfd.evaluate(victim, data, Square(eps=0.05, on_refusal=on), **settings) for on in ("end", "adapt")]
    assert runs[0].records == runs[1].records


def test_an_adapting_square_goes_on_with_more_accounts_where_square_and_its_other_forms_end():
    generator = torch.Generator().manual_seed(0)
    victim, x = small_network(), torch.rand(4, 3, 16, 16, generator=generator)
    data = (x, victim(x).argmax(1))
    settings = {"budget": 20, "progress": False, "sanity_checks": False, "defense": Blacklight("ban")}
    for attack in (Square(eps=0.01, p=0.1), AdaptiveSquare(eps=0.01, p=0.1)):
        ended = rfd.evaluate(victim, data, attack, **settings)
        assert {(r.refused, r.accounts, r.billed) for r in ended.records} == {(1, 2, 2)}
    adapted = rfd.evaluate(victim, data, Square(eps=0.01, p=0.1, on_refusal="adapt"), **settings)
    assert all(r.billed == 20 or r.verdict == "adversarial" for r in adapted.records)
    assert all(r.refused > 2 and r.accounts == r.refused + 1 for r in adapted.records if r.billed == 20)
    assert any(r.billed == 20 for r in adapted.records)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_refusal": "wait"}, "^unknown attack.on_refusal 'wait'; known: adapt, end$"),
        ({"norm": "l2"}, "^attack.norm: expected linf with attack.on_refusal adapt, got l2$"),
        ({"refresh": "every"}, "^attack.refresh: expected never with attack.on_refusal adapt, got every$"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Square(**{"eps": 0.1, "on_refusal": "adapt", **options})

"""What is special to Square."""

import pytest
import torch
from attack_checks import (
    check_feasible,
    check_square_linear,
    check_square_loss,
    check_square_reference,
    check_square_schedule,
    check_square_windows,
)
from harness import counted

from rfdlight.attacks import Square
from rfdlight.core import rng
from rfdlight.errors import UserError


@pytest.mark.parametrize(("p", "schedule_len"), [(0.05, None), (0.3, 100)])
def test_each_query_is_the_references(network, clean, p, schedule_len):
    x, y = clean
    check_square_reference(Square(p=p, schedule_len=schedule_len, eps=0.05), network, x[:1], y[:1], 300)


def test_schedule_and_sides_are_the_published_ones():
    check_square_schedule(Square(eps=0.05))


@pytest.mark.parametrize(
    ("norm", "size", "share"),
    [
        ("linf", (8, 8), 0.8),
        ("linf", (32, 32), 0.8),
        ("linf", (56, 56), 0.8),
        ("linf", (112, 150), 0.2),
        ("linf", (224, 224), 0.05),
        ("linf", (448, 448), 0.0125),
        ("l2", (32, 32), 0.8),
        ("l2", (112, 112), 0.4),
        ("l2", (224, 299), 0.1),
    ],
)
def test_by_default_the_first_squares_are_as_wide_as_the_authors_within_the_image(norm, size, share):
    attack = Square(eps=0.05, norm=norm)
    assert attack.first_share(*size) == pytest.approx(share)
    assert Square(eps=0.05, norm=norm, p=0.3).first_share(*size) == 0.3
    assert counted(attack, "paper").first_share(*size) == 0.05
    t = torch.zeros(1, dtype=torch.int64)
    same = Square(eps=0.05, norm=norm, p=share)
    assert torch.equal(attack.side(t, t + 1000, *size), same.side(t, t + 1000, *size))


def test_the_schedule_runs_over_the_budget_by_default():
    t = torch.arange(1000)
    by_budget = Square(eps=0.05).side(t, torch.full_like(t, 1000), 32, 32)
    assert torch.equal(by_budget, Square(schedule_len=1000, eps=0.05).side(t, torch.full_like(t, 9), 32, 32))


def test_a_proposal_differs_from_the_kept_point_inside_one_window(network, clean):
    check_square_windows(Square(p=0.3, eps=0.05), network, clean[0][:3], clean[1][:3])


def test_no_proposal_repeats_the_kept_signs():
    # Grey one-channel images under a victim that takes every proposal: half of all draws repeat a colour.
    attack = Square(p=0.05, schedule_len=10, eps=0.1)
    x = torch.full((8, 1, 6, 6), 0.5)
    state = {"x": x, "y": torch.zeros(8, dtype=torch.int64), "seed": torch.arange(8), "budget": torch.full((8,), 99)}
    state["target"] = torch.full((8,), -1)
    state |= attack.init(state["x"], state["y"], state["seed"])
    for step in range(99):
        kept = state["signs"].clone()
        attack.ask(state)
        assert step == 0 or (state["proposal"] != kept).flatten(1).any(1).all()
        logits = torch.tensor([[-float(step), 0.0]]).expand(8, 2)
        attack.tell(state, x, logits)


def test_repainted_colours_are_uniform_among_those_that_change_the_window():
    # One pixel, three channels: the new colours are each of the 7 others with chance 1/7. Pearson's statistic
    # of 7 * 3000 draws exceeds 24.1 in 1 of 2000 runs (chi square, 6 degrees of freedom is 24.1).
    rows = 3000
    attack = Square(p=0.05, schedule_len=10, eps=0.1)
    x = torch.full((rows, 3, 2, 2), 0.5)
    state = {"x": x, "y": torch.zeros(rows, dtype=torch.int64), "seed": torch.arange(rows)}
    state |= {"budget": torch.full((rows,), 99), **attack.init(x, state["y"], state["seed"])}
    state["step"] += 5
    kept = state["signs"].clone()
    attack.ask(state)
    code = ((state["proposal"] != kept)[:, :, 0, 0] * torch.tensor([1, 2, 4])).sum(1)
    counts = code.bincount(minlength=8).double()
    assert counts[0] == 0
    # A draw that repeats is one of eight, and goes to the others evenly: 1/7 each.
    assert float(((counts[1:] - rows / 7) ** 2 / (rows / 7)).sum()) <= 24.1


def test_windows_are_uniform_and_never_reach_the_last_row_and_column():
    rows, height, side = 4000, 6, 2
    attack = Square(p=side**2 / height**2, eps=0.1)
    x = torch.full((rows, 1, height, height), 0.5)
    state = {"x": x, "y": torch.zeros(rows, dtype=torch.int64), "seed": torch.arange(rows)}
    state |= {"budget": torch.full((rows,), 10**6), **attack.init(x, state["y"], state["seed"])}
    state["step"] += 1
    kept = state["signs"].clone()
    attack.ask(state)
    proposal = state["proposal"]
    whole = (proposal != kept).flatten(1).sum(1) == side**2
    first = (proposal != kept)[whole].flatten(1).long().argmax(1)
    counts = first.bincount(minlength=height**2).view(height, height).double()
    free = height - side
    assert counts[free:].sum() == 0
    assert counts[:, free:].sum() == 0
    expected = whole.sum() / free**2
    # Chi square with 15 degrees of freedom: 40.0 in 1 of 2000 runs.
    assert float(((counts[:free, :free] - expected) ** 2 / expected).sum()) <= 40.0


def test_the_loss_never_rises_and_is_that_of_the_kept_point(network, clean):
    check_square_loss(Square(p=0.05, eps=0.05), network, clean[0][:3], clean[1][:3])


@pytest.mark.slow
def test_points_stay_in_the_ball(network, clean):
    check_feasible(Square(p=0.05, eps=0.05), network, clean[0][:3], clean[1][:3])


@pytest.mark.slow
def test_a_linear_victims_exact_minimum_is_approached_and_never_beaten():
    check_square_linear(Square(p=0.05, eps=0.04))


def test_stripes_are_drawn_from_the_images_own_key():
    attack = Square(eps=0.1)
    x, y = torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)
    stripes = attack.init(x, y, torch.tensor([5, 6]))["signs"]
    assert torch.equal(stripes[0, :, 2], rng.signs(torch.tensor([5]), 0, torch.tensor([0]), (3, 4))[0])
    assert not torch.equal(stripes[0], stripes[1])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"p": 0.0}, r"attack\.p must lie in \(0, 1\], got 0\.0"),
        ({"p": 1.5}, r"attack\.p must lie in \(0, 1\], got 1\.5"),
        ({"schedule_len": 0}, "attack.schedule_len must be at least 1, got 0"),
        ({"norm": "l1"}, "attack.norm of Square must be linf or l2, got l1"),
        ({"eps": 0.0}, "attack.eps must be a positive number of pixel units, got 0.0"),
        ({"eps": float("nan")}, "attack.eps must be a positive number of pixel units, got nan"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        Square(**options)

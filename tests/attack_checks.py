"""Checks of single attacks; the tests run them on the attacks, and on mutants that they must catch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from harness import Linear, drive, images, one_by_one
from reference.draws import NoiseDraws, SquareDraws
from reference.random_noise import random_noise
from reference.rays import rays
from reference.square import square
from torch import Tensor, nn

from rfdlight.attacks import Attack, RandomNoise, RayS, Square

SCHEDULES = {
    1000: (0, 2, 6, 21, 51, 101, 201, 401, 601, 801),
    5000: (0, 6, 26, 101, 251, 501, 1001, 2001, 3001, 4001),
    10000: (0, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001),
    20000: (0, 22, 102, 402, 1002, 2002, 4002, 8002, 12002, 16002),
}
"""By length: the first step of each level of the squares' share."""

SIDES = {
    (0.05, 224): (50, 35, 25, 18, 13, 9, 6, 4, 3, 2),
    (0.05, 32): (7, 5, 4, 3, 2, 1, 1, 1, 1, 1),
    (0.3, 224): (123, 87, 61, 43, 31, 22, 15, 11, 8, 5),
    (0.3, 32): (18, 12, 9, 6, 4, 3, 2, 2, 1, 1),
}
"""By share and height: the sides of the levels."""


def caught(table: list[tuple[Any, ...]]) -> list[Any]:
    """One case per mutant and check of a table of mutants, arguments of the test, and checks.

    All but the first are slow tests.
    """
    cases: list[Any] = []
    for mutant, *arguments, checks in table:
        for check in checks:
            name = check if isinstance(check, str) else check.__name__
            marks = [pytest.mark.slow] if cases else []
            cases.append(pytest.param(mutant, *arguments, check, id=f"{mutant.__name__}-{name}", marks=marks))
    return cases


def check_square_reference(attack: Square, victim: nn.Module, x: Tensor, y: Tensor, budget: int) -> None:
    """Query by query, points are the same bits and losses the same numbers as the reference's."""
    answer = one_by_one(victim)
    seed = torch.tensor([3 + 2**40 * i for i in range(len(x))])
    ticks = list(drive(attack, answer, x, y, budget=budget, seed=seed))
    for i in range(len(x)):
        draws = SquareDraws(int(seed[i]), x.shape[1], x.shape[3])
        n = budget if attack.schedule_len is None else attack.schedule_len
        own = (int(y[i]), attack.eps, attack.p, n, budget, draws, attack.follow, attack.jump)
        history = square(lambda p: answer(p[None])[0], x[i], *own)
        assert len(history) == len(ticks)
        for q, (entry, (_, points, _, after)) in enumerate(zip(history, ticks, strict=True)):
            assert torch.equal(points[i], entry["point"]), f"image {i}, query {q}"
            assert float(after["loss"][i]) == entry["loss"], f"image {i}, query {q}"


def check_rays_reference(attack: RayS, victim: nn.Module, x: Tensor, y: Tensor, budget: int) -> None:
    """Query by query, points and radii are the reference's; at the end the direction too."""
    answer = one_by_one(victim)
    ticks = list(drive(attack, answer, x, y, budget=budget))
    for i in range(len(x)):
        history, direction, radius, _ = rays(lambda p: answer(p[None])[0], x[i], int(y[i]), budget)
        assert len(history) == len(ticks)
        for q, (entry, (before, points, _, _)) in enumerate(zip(history, ticks, strict=True)):
            assert float(before["radius"][i]) == entry["radius"], f"image {i}, query {q}"
            assert torch.equal(points[i], entry["point"]), f"image {i}, query {q}"
        last = ticks[-1][3]
        assert last["direction"][i].flatten().tolist() == direction
        assert float(last["radius"][i]) == radius


def check_noise_reference(attack: RandomNoise, victim: nn.Module, x: Tensor, y: Tensor, budget: int) -> None:
    """Query by query, points are the reference's, and so is the point that is submitted."""
    answer = one_by_one(victim)
    seed = torch.arange(len(x)) + 100
    ticks = list(drive(attack, answer, x, y, budget=budget, seed=seed))
    for i in range(len(x)):
        draws = NoiseDraws(int(seed[i]), x[0].numel())
        history, submitted = random_noise(
            lambda p: answer(p[None])[0], x[i], int(y[i]), attack.eps, attack.norm, budget, draws
        )
        for q, (entry, (_, points, _, after)) in enumerate(zip(history, ticks, strict=True)):
            assert torch.equal(points[i], entry["point"]), f"image {i}, query {q}"
            assert bool(after["success"][i]) == any(past["wrong"] for past in history[: q + 1])
        assert torch.equal(attack.best(ticks[-1][3])[i], submitted)


def check_feasible(attack: Attack, victim: nn.Module, x: Tensor, y: Tensor, budget: int = 60) -> None:
    """Queries lie in [0, 1], what is submitted lies in the ball, and moves do not stay at x."""
    for _, points, _, after in drive(attack, one_by_one(victim), x, y, budget=budget):
        assert points.shape == x.shape
        assert points.dtype == x.dtype
        assert points.min() >= 0
        assert points.max() <= 1
        best = attack.best(after)
        assert best.min() >= 0
        assert best.max() <= 1
        delta = (best - x).flatten(1)
        if attack.norm == "linf":
            assert delta.abs().max() <= attack.eps + 1e-6
        else:
            assert delta.norm(dim=1).max() <= attack.eps * (1 + 1e-4)
        assert (delta.abs().amax(1) > 0).all()


def check_square_schedule(attack: Square) -> None:
    """Each level of the squares starts and measures as published; beyond the schedule they stay small."""
    for (p, height), sides in SIDES.items():
        attack.p = p
        for length, starting_points in SCHEDULES.items():
            attack.schedule_len = length
            t = torch.arange(length + 2000)
            level = sum((t >= start).long() for start in starting_points) - 1
            expected = torch.tensor(sides)[level]
            assert torch.equal(attack.side(t, torch.full_like(t, 7), height, height), expected), (p, height, length)


def check_square_windows(attack: Square, victim: nn.Module, x: Tensor, y: Tensor, budget: int = 120) -> None:
    """Each proposal repaints one square window, a colour per channel; the last row and column stay striped."""
    stripes = None
    for q, (before, points, _, after) in enumerate(drive(attack, one_by_one(victim), x, y, budget=budget)):
        kept = before["signs"]
        if q == 0:
            stripes = kept
            assert (stripes == stripes[:, :, :1, :]).all()
        clean_kept = (x + attack.eps * kept).clamp(0, 1)
        changed = (points - clean_kept).abs() > attack.eps / 2
        height = x.shape[2]
        side = int(attack.side(torch.tensor([q - 1]), before["budget"][:1], height, height))
        for row in changed:
            places = row.any(0).nonzero()
            assert q > 0 or len(places) == 0
            if len(places):
                extent = places.amax(0) - places.amin(0) + 1
                assert int(extent.max()) <= side, f"query {q}"
        moved = after["signs"] != kept
        for row, signs in zip(moved, after["signs"], strict=True):
            for channel, colours in zip(row, signs, strict=True):
                assert len(colours[channel].unique()) <= 1
        assert torch.equal(after["signs"][:, :, -1, :], stripes[:, :, -1, :])
        assert torch.equal(after["signs"][:, :, :, -1], stripes[:, :, :, -1])
        assert q == 0 or (moved.flatten(1).any(1) | (after["loss"] == before["loss"])).all()


def check_square_loss(attack: Square, victim: nn.Module, x: Tensor, y: Tensor, budget: int = 120) -> None:
    """The recorded loss never rises, is the margin at the submitted point, and has fallen at the end."""
    answer = one_by_one(victim)
    first = None
    for before, _, logits, after in drive(attack, answer, x, y, budget=budget):
        right = logits.gather(1, y[:, None])[:, 0]
        rest = logits.masked_fill(nn.functional.one_hot(y, logits.shape[1]).bool(), -math.inf).amax(1)
        assert (after["loss"] <= before["loss"]).all()
        assert (after["loss"] <= right - rest).all()
        first = after["loss"] if first is None else first
    again = answer(attack.best(after))
    margin = again.gather(1, y[:, None])[:, 0]
    again = again.scatter(1, y[:, None], -math.inf)
    assert torch.equal(margin - again.amax(1), after["loss"])
    assert (after["loss"] < first).all()


def linear_victim(shape: tuple[int, ...], edge: bool = True) -> tuple[Linear, Tensor]:
    """A linear victim and three images of class 0 with a margin of their own; `edge` False ignores the last ones."""
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(1, *shape, generator=generator)
    if not edge:
        weight[..., -1] = 0
        weight[..., -1, :] = 0
    x = images(3, shape, seed=6) * 0.4 + 0.3
    flat = Linear(weight, 0.0)(x)[:, 0]
    # The least margin is what 0.05 per pixel takes away.
    victim = Linear(weight, float(0.05 * weight.abs().sum() - flat.min()))
    return victim, x


def check_square_linear(attack: Square) -> None:
    """On a linear victim, 600 queries take at least 90 % of the margin that can be taken, and never more."""
    victim, x = linear_victim((3, 8, 8), edge=False)
    y = torch.zeros(3, dtype=torch.int64)
    attack.schedule_len = 400
    least = victim.least_margin(x, attack.eps)
    for *_, after in drive(attack, lambda p: victim(p).float(), x, y, budget=600):
        assert (after["loss"] >= least - 1e-4).all()
    clean = victim(x)[:, 0]
    share = (clean - after["loss"]) / (clean - least)
    assert share.min() >= 0.9, share


def check_rays_linear(attack: RayS) -> None:
    """On a linear victim of 48 values, 1,000 queries find the least radius to 5 %, and never less."""
    victim, x = linear_victim((3, 4, 4))
    y = torch.zeros(3, dtype=torch.int64)
    least = torch.tensor([victim.least_radius(image[None]) for image in x], dtype=torch.float64)
    for before, _, _, after in drive(attack, victim, x, y, budget=1000):
        reached = after["radius"] / math.sqrt(x[0].numel())
        assert (reached >= least - 1e-6).all()
        assert (after["radius"] <= before["radius"]).all()
    assert (reached <= 1.05 * least).all(), reached / least


def check_rays_steps(attack: RayS, victim: nn.Module, x: Tensor, y: Tensor, budget: int = 250) -> None:
    """Radii never rise, adoptions negate one block, and a bisection takes ceil(log2(bracket / 1e-3)) queries."""
    root = math.sqrt(x[0].numel())
    answer = one_by_one(victim)
    bisected = torch.zeros(len(x), dtype=torch.int64)
    ended = 0
    for before, _, logits, after in drive(attack, answer, x, y, budget=budget):
        assert (after["radius"] <= before["radius"]).all()
        assert (after["direction"].abs() == 1).all()
        for i in range(len(x)):
            busy = int(before["phase"][i]) == 1
            bisected[i] = bisected[i] + 1 if busy else 0
            # A check starts a bisection exactly if the answer is wrong.
            assert busy or bool(after["phase"][i]) == bool(logits[i].argmax() != y[i])
            if busy and not after["phase"][i]:
                bracket = min(float(before["radius"][i]), root)
                assert int(bisected[i]) == max(1, math.ceil(math.log2(bracket / 1e-3)))
                ended += 1
            turned = (before["direction"][i] != after["direction"][i]).flatten().nonzero()[:, 0]
            assert (len(turned) > 0) == bool(after["radius"][i] < before["radius"][i])
            if len(turned):
                assert turned[-1] - turned[0] + 1 == len(turned)
                assert len(turned) <= -(-x[0].numel() // 2 ** int(before["level"][i]))
        step = (after["radius"] / root).clamp_max(1).float().view(-1, 1, 1, 1)
        ray = (x + step * after["direction"]).clamp(0, 1)
        found = after["radius"].isfinite()
        assert (answer(ray).argmax(1) != y)[found].all()
    assert ended >= len(x), "no bisection ended: the check saw nothing"


def check_noise_points(attack: RandomNoise, budget: int = 40) -> None:
    """At grey images every point has its full length, points differ, and signs balance (z of at most 5)."""
    x = torch.full((4, 3, 16, 16), 0.5)
    y = torch.zeros(4, dtype=torch.int64)
    answer = torch.zeros(4, 2)
    answer[:, 0] = 1
    seen = torch.stack([points for _, points, _, _ in drive(attack, lambda _: answer, x, y, budget=budget)])
    delta = (seen - 0.5).flatten(2).double()
    length = delta.abs().amax(2) if attack.norm == "linf" else delta.norm(dim=2)
    assert torch.allclose(length, torch.full_like(length, attack.eps), rtol=1e-4)
    signs = delta.sign()
    assert abs(float(signs.mean())) <= 5 / math.sqrt(signs.numel())
    points = signs.flatten(0, 1)
    overlap = (points @ points.T / points.shape[1]).fill_diagonal_(0).abs()
    assert float(overlap.max()) <= 6 / math.sqrt(points.shape[1])


def check_noise_best(attack: RandomNoise) -> None:
    """The point submitted is the last misclassified one, else the last one."""
    x = images(4)
    y = torch.zeros(4, dtype=torch.int64)
    wrong_at = [{2, 5}, set(), {0}, {7}]
    tick = iter(range(100))

    def answer(points: Tensor) -> Tensor:
        number = next(tick)
        return nn.functional.one_hot(torch.tensor([int(number in when) for when in wrong_at]), 2).float()

    seen = []
    for _, points, _, after in drive(attack, answer, x, y, budget=8):
        seen.append(points)
        for i, when in enumerate(wrong_at):
            past = [q for q in sorted(when) if q < len(seen)]
            assert torch.equal(attack.best(after)[i], seen[past[-1] if past else -1][i])


def points_under_refusals(attack, x, seed, refused, losses, budget=None):
    """The points, (queries, rows, C, H, W), that an attack queries where some are refused and others have losses.

    `refused` and `losses` are (queries, rows); a loss is the margin of a victim of two classes at label 0.
    """
    y = torch.zeros(len(x), dtype=torch.int64)
    state = {
        "x": x,
        "y": y,
        "seed": seed,
        "budget": y + (budget or len(refused)),
        "target": y - 1,
        **attack.init(x, y, seed),
    }
    made = []
    for row, loss in zip(refused, losses, strict=True):
        points = attack.ask(state)
        made.append(points.clone())
        for is_refused in (False, True):
            which = (row == is_refused).nonzero()[:, 0]
            if not len(which):
                continue
            part = {name: column[which] for name, column in state.items()}
            if is_refused:
                assert attack.refused(part, points[which])
            else:
                attack.tell(part, points[which], torch.stack([loss[which], torch.zeros(len(which))], 1))
            for name, column in part.items():
                if name in state:
                    state[name][which] = column
    return torch.stack(made)

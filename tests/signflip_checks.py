"""Checks of SignFlip; the tests run them on the attack, and on mutants that they must catch."""

import pytest
import torch
from attack_checks import linear_victim
from harness import Linear, Run, drive, next_classes, one_by_one
from reference.draws import SignFlipDraws
from reference.signflip import signflip

from rfdlight.core import rng
from rfdlight.core.norms import norm
from rfdlight.engine import criterion_named

DRAW, BISECT, PROJECT, FLIP = range(4)
NAMES = ["start", "bisect", "project", "flip"]


def aims(attack, victim, x, y):
    """The target and start of each row, for the targeted form."""
    if not attack.targeted:
        return {}
    target, starting_points = next_classes(victim, x, y)
    return {"target": target, "starting_points": starting_points}


def radius(state):
    return norm(state["delta"], "linf")


def check_reference(attack, victim, x, y, budget=120):
    """Query by query, points, perturbations, step sizes and probabilities are the same bits as the reference's."""
    answer = one_by_one(victim)
    seed = torch.tensor([3 + 2**40 * i for i in range(len(x))])
    aimed = aims(attack, victim, x, y)
    ticks = list(drive(attack, answer, x, y, budget=budget, seed=seed, **aimed))
    kinds = set()
    for i in range(len(x)):
        goal = int(aimed["target"][i]) if aimed else None
        right = int(y[i])
        history = signflip(
            lambda p: answer(p[None])[0],
            x[i],
            lambda label, goal=goal, right=right: label != right if goal is None else label == goal,
            attack.resize,
            budget,
            SignFlipDraws(int(seed[i])),
            aimed["starting_points"][i] if aimed else None,
        )
        assert len(history) == len(ticks)
        for q, (entry, (before, points, _, _)) in enumerate(zip(history, ticks, strict=True)):
            where = f"image {i}, query {q}"
            assert NAMES[int(before["phase"][i])] == entry["kind"], where
            assert torch.equal(points[i], entry["point"]), where
            kinds.add(entry["kind"])
            if entry["kind"] != "start":
                assert before["delta"][i].flatten().tolist() == entry["delta"], where
                assert float(before["alpha"][i]) == entry["alpha"], where
                assert before["keep"][i].flatten().tolist() == entry["keep"], where
    assert kinds == set(NAMES)


def check_iterations(attack, victim, x, y, budget=220):
    """The paper's invariants: radii, sizes, probabilities, step sizes and counts, and the points' labels."""
    answer = one_by_one(victim)
    first = None
    started = torch.zeros(len(x), dtype=torch.bool)
    asked = {which: torch.zeros_like(y) for which in (DRAW, BISECT, PROJECT, FLIP)}
    taken = {which: torch.zeros_like(y) for which in (PROJECT, FLIP)}
    adapted = 0
    for before, points, logits, after in drive(attack, answer, x, y, budget=budget):
        hit = logits.argmax(1) != y
        for i in range(len(x)):
            which = int(before["phase"][i])
            asked[which][i] += 1
            old, new = before["delta"][i], after["delta"][i]
            if which in taken:
                assert started[i]
                assert not hit[i] or torch.equal(points[i], (x[i] + new).clamp(0, 1))
                assert torch.equal(old, new) or hit[i]
                assert int(asked[DRAW][i] + asked[BISECT][i]) == 10 + int(asked[DRAW][i])
                assert int(asked[PROJECT][i] - asked[FLIP][i]) == (which == PROJECT)
                assert new.abs().max() <= old.abs().max()
                taken[which][i] += hit[i]
            if which == PROJECT and hit[i]:
                assert new.abs().max() <= (old.abs().max() - before["alpha"][i]).clamp_min(0)
            if which == FLIP and hit[i]:
                assert torch.equal(new.abs(), old.abs())
            ends = which == FLIP and int(asked[FLIP][i]) % 10 == 0
            change = float(after["alpha"][i] / before["alpha"][i])
            share = int(taken[PROJECT][i])
            expected = 1.0 if not ends else 1.5 if share > 7 else 1 / 1.5 if share < 3 else 1.0
            assert change == pytest.approx(expected, rel=1e-6)
            if which == FLIP and not ends:
                moved = after["keep"][i] - before["keep"][i]
                assert hit[i] or not moved.any()
                if hit[i] and attack.resize == 1:
                    flipped = (new != old) & (old != 0)
                    assert (moved[flipped] >= 0).all()
                    assert (moved[~flipped & (old != 0)] <= 0).all()
                    assert moved.abs().max() <= 1.01e-4
            if ends:
                adapted += 1
                taken[PROJECT][i] = taken[FLIP][i] = 0
        assert after["keep"].min() >= torch.tensor(0.99)
        assert after["keep"].max() <= torch.tensor(0.9999)
        started |= hit & (before["phase"] == DRAW)
        kept = (x + after["delta"]).clamp(0, 1)
        assert (answer(kept).argmax(1) != y)[started].all()
        first = radius(after) if first is None else first
    assert started.all(), "no start was found: the check saw nothing"
    assert adapted >= len(x)
    assert (radius(after) < 0.9 * first).all()


def check_linear(attack):
    """On a linear victim of 48 values, 700 queries come within 90 % of the least radius, and never below it."""
    victim, x = linear_victim((3, 4, 4))
    y = torch.zeros(3, dtype=torch.int64)
    least = torch.tensor([victim.least_radius(image[None]) for image in x])
    for before, *_, after in drive(attack, lambda p: victim(p).float(), x, y, budget=700):
        found = before["phase"] > DRAW
        assert (radius(after) >= least - 1e-6)[found].all()
    assert (radius(after) <= 1.9 * least).all(), radius(after) / least


def check_adaptation(attack, takes):
    """Where every proposal or none is taken, steps and probabilities change by the published factors."""
    x, y = torch.full((2, 3, 6, 6), 0.5), torch.zeros(2, dtype=torch.int64)
    answers = iter([True] + [False] * 10 + [takes] * 1000)

    def answer(points):
        return torch.nn.functional.one_hot(torch.full((2,), int(next(answers))), 2).float()

    alpha, keep = 0.004, 0.999
    for q, (*_, after) in enumerate(drive(attack, answer, x, y, budget=11 + 200), 1):
        if q > 11 and (q - 11) % 20 == 0:
            alpha = alpha * 1.5 if takes else alpha / 1.5
            keep = min(max(keep - 0.001 if takes else keep + 0.001, 0.99), 0.9999)
            if not takes:
                assert torch.allclose(after["keep"], torch.tensor(keep), atol=1e-6)
            else:
                # Ten flips were taken: those kept each time have lost 10 * 1e-4 besides.
                keep = max(keep - 0.001, 0.99)
                assert float(after["keep"].min()) == pytest.approx(keep, abs=1e-6)
        assert torch.allclose(after["alpha"], torch.tensor(alpha), rtol=1e-5)


def redrawing_victim(shape=(1, 5, 5)):
    """A linear victim that misclassifies about half of all noise, and two images that it classifies right."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, *shape, generator=generator)
    victim = Linear(weight, float(-weight.sum() / 2))
    x = (0.5 + 0.3 * weight.sign()).expand(2, *shape).clone()
    return victim, x, torch.zeros(2, dtype=torch.int64)


def check_paper_bill(attack, repeats, budget):
    """Under the paper's query counting, 11 + redraws + 2 t queries are made and all but the first are billed."""
    victim, x, y = redrawing_victim()
    x, y = x.repeat(4, 1, 1, 1), y.repeat(4)
    rules = {"query_counting": "paper", "criterion": criterion_named("never"), "batch_size": 4 * repeats}
    run = Run(victim, attack, x, y, budget=budget, eot=repeats, **rules)
    odd = 0
    for i, record in enumerate(run.records):
        redraws = redraws_of(victim, x[i], rng.image_seed(0, record.id))
        start = (10 + redraws) * repeats
        t = max(0, -(-(budget - start) // (2 * repeats)))
        assert record.attack == (11 + redraws + 2 * t) * repeats
        assert record.billed == budget
        odd += redraws % 2
    assert odd, "every start was found after an even number of draws"


def redraws_of(victim, image, seed):
    """Return how often the reference's noise has to be drawn again."""
    draws = SignFlipDraws(seed)
    redraws = 0
    while int(victim(torch.tensor(draws.start(redraws, image.numel())).float().view(1, *image.shape)).argmax()) == 0:
        redraws += 1
    return redraws

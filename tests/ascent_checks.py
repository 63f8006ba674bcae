"""Checks that NES, ZO-signSGD and Bandits share: they all step along an estimated direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attack_checks import linear_victim
from harness import Constant, Mapped, Run, drive, images, one_by_one, takes_published_steps
from torch import Tensor, nn

from rfdlight.attacks import Attack
from rfdlight.attacks.paper import paper_behaviour
from rfdlight.engine import criterion_named

Reference = Callable[[Callable[[Tensor], Tensor], Tensor, int, int, int, int], list[dict[str, Any]]]
"""From a model, an image, its label, target and key and a budget to one entry per query."""


def grey(rows: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Images that small probes do not carry out of [0, 1], and labels."""
    return images(rows, shape, seed=5) * 0.2 + 0.4, torch.zeros(rows, dtype=torch.int64)


def check_reference(
    attack: Attack, reference: Reference, victim: nn.Module, x: Tensor, y: Tensor, budget: int, replay: float = 0.0
) -> None:
    """Query by query, points, looks and iterates are the reference's.

    They are the same bits, unless `replay` gives a tolerance: then the reference is told the answers that the
    attack was told, so that rounding cannot grow from query to query.
    """
    answer = one_by_one(victim)
    seed = torch.tensor([3 + 2**40 * i for i in range(len(x))])
    target = (y + 1) % 5 if attack.targeted else None
    ticks = list(drive(attack, answer, x, y, budget=budget, seed=seed, target=target))
    for i in range(len(x)):
        goal = -1 if target is None else int(target[i])
        told = iter([logits[i] for _, _, logits, _ in ticks])
        model = (lambda _, told=told: next(told)) if replay else (lambda p: answer(p[None])[0])
        history = reference(model, x[i], int(y[i]), goal, int(seed[i]), budget)
        assert len(history) == len(ticks)
        for q, (entry, (before, points, _, after)) in enumerate(zip(history, ticks, strict=True)):
            assert torch.allclose(points[i], entry["point"], rtol=0, atol=replay), f"image {i}, query {q}"
            checks = attack.is_success_check(before)
            assert (checks is not None and bool(checks[i])) == entry["look"], f"image {i}, query {q}"
            assert torch.allclose(attack.best(after)[i], entry["iterate"], rtol=0, atol=replay), f"image {i}, query {q}"
    assert not torch.equal(attack.best(ticks[-1][3]), x)


def check_iterates(
    attack: Attack, victim: nn.Module, x: Tensor, y: Tensor, cycle: int, moves_at: int, length: float, which: float
) -> None:
    """The iterate moves once per cycle, by at most `length` in the norm `which`, inside the ball and [0, 1]."""
    free = takes_published_steps(attack)
    for q, (before, points, _, after) in enumerate(drive(attack, one_by_one(victim), x, y, budget=5 * cycle)):
        assert free or (points.min() >= 0 and points.max() <= 1)
        old, new = attack.best(before), attack.best(after)
        moved = torch.linalg.vector_norm((new - old).flatten(1), which, dim=1)
        assert ((moved > 0) == (q % cycle == moves_at)).all(), f"query {q}"
        assert (moved <= length * (1 + 1e-4)).all(), f"query {q}"
        delta = (new - x).flatten(1)
        radius = delta.abs().amax(1) if attack.norm == "linf" else delta.norm(dim=1)
        assert (radius <= attack.eps * (1 + 1e-4)).all(), f"query {q}"
        assert free or (new.min() >= 0 and new.max() <= 1)
    assert (radius >= 0.5 * attack.eps).all()


def check_standstill(attack: Attack, cycle: int) -> None:
    """Where no probe changes the answer, the direction is zero, and so is the step: sgn(0) = 0."""
    x, y = images(3, (3, 4, 4)), torch.zeros(3, dtype=torch.int64)
    for *_, after in drive(attack, Constant(), x, y, budget=3 * cycle):
        assert torch.equal(attack.best(after), x)


def check_scale(attack: Attack, victim: nn.Module, x: Tensor, y: Tensor, budget: int) -> None:
    """Logits 8 times as large, which is exact in floating point, change no query."""
    plain = drive(attack, one_by_one(victim), x, y, budget=budget)
    scaled = drive(attack, one_by_one(Mapped(victim, lambda z: 8 * z)), x, y, budget=budget)
    for (_, points, _, _), (_, same, _, _) in zip(plain, scaled, strict=True):
        assert torch.equal(points, same)


def check_linear(attack: Attack, budget: int, share: float) -> None:
    """On a linear victim the margin falls by at least `share` of what the ball allows, and never by more."""
    victim, x = linear_victim((3, 4, 4))
    y = torch.zeros(3, dtype=torch.int64)
    after = list(drive(attack, lambda p: victim(p).float(), x, y, budget=budget))[-1][3]
    clean, least, reached = victim(x)[:, 0], victim.least_margin(x, attack.eps), victim(attack.best(after))[:, 0]
    assert (reached >= least - 1e-4).all()
    taken = (clean - reached) / (clean - least)
    assert (taken >= share).all(), taken


def check_billing(attack: Attack, query_counting: str, used: int, cycle: int, budget: int, eot: int) -> None:
    """An unbreakable image costs what section 9 of the specification says.

    Exact: the budget, one query in `cycle` being a look if `used` is less than `cycle`. Paper: `used`
    evaluations per iteration and answer averaged, up to the first iteration that reaches the budget.
    """
    x, y = images(3, (3, 4, 4)), torch.zeros(3, dtype=torch.int64)
    run = Run(Constant(), attack, x, y, budget=budget, query_counting=query_counting, eot=eot)
    for record in run.records:
        if query_counting == "exact":
            looks = budget // eot // cycle if used < cycle else 0
            assert record.success_check == looks * eot
            assert record.attack + record.success_check == record.billed == budget // eot * eot
            assert record.criterion == 3
        else:
            iterations = -(-budget // (used * eot))
            assert record.attack == used * eot * iterations
            assert record.success_check == 0
            assert record.billed == budget
            # One draw at the clean image, two at the end, and the looks, which are the evaluator's.
            assert record.criterion == 3 + iterations


def check_claims(attack: Attack, victim: nn.Module, x: Tensor, y: Tensor, cycle: int, look: int, budget: int) -> None:
    """The attack calls an image broken when a look at the iterate, and nothing else, has the wrong answer."""
    seen = 0
    seed = torch.arange(len(x))
    state = {"x": x, "y": y, "seed": seed, "budget": torch.full_like(y, budget), "target": torch.full_like(y, -1)}
    state |= attack.init(x, y, seed)
    answer = one_by_one(victim)
    for q in range(budget):
        points = attack.ask(state)
        logits = answer(points)
        attack.tell(state, points, logits)
        looking = q % cycle == look
        assert torch.equal(
            paper_behaviour(attack).reports_success(state, logits.argmax(1) != y), (logits.argmax(1) != y) & looking
        )
        assert not looking or torch.equal(points, attack.best(state))
        seen += int(paper_behaviour(attack).reports_success(state, logits.argmax(1) != y).sum())
    assert seen


def check_paper_boundaries(attack: Attack, victim: nn.Module, x: Tensor, y: Tensor, used: int, budget: int) -> None:
    """Under paper query counting, success comes after whole iterations, and victims see pixels outside [0, 1]."""
    ranges = []
    hook = victim.register_forward_pre_hook(lambda _, inputs: ranges.append(inputs[0].aminmax()))
    run = Run(victim, attack, x, y, budget=budget, query_counting="paper", criterion=criterion_named("paper"))
    hook.remove()
    adversarial = [record.success_query for record in run.records if record.success_query is not None]
    assert adversarial
    # The last iteration may exceed the budget, and is then recorded as the budget.
    assert all(at % used == 0 or at == budget for at in adversarial)
    assert min(float(low) for low, _ in ranges) < 0
    assert max(float(high) for _, high in ranges) > 1

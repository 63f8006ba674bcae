"""Averaged queries: what an attack is told, what it is billed, and that one evaluation changes nothing."""

import pytest
import torch
from harness import CoinFlip, Constant, Run, images, others_slow
from torch import nn

from rfdlight.attacks import Attack, RandomNoise, RayS, Square
from rfdlight.core import query_counts as clock
from rfdlight.engine import criterion_named
from rfdlight.engine.query_step import most_frequent

LOG_BUDGET = 20


class Listener(Attack):
    """Asks the clean image, and keeps every answer that it is told."""

    access = "score"

    def __init__(self, access: str) -> None:
        super().__init__(eps=0.1)
        type(self).access = access
        self.told = []

    def init(self, x, y, seed):
        return {}

    def ask(self, state):
        return state["x"].clone()

    def tell(self, state, points, answer):
        self.told.append(answer)

    def best(self, state):
        return state["x"]


class Noisy(nn.Module):
    """Logits of standard normal noise around (1, 0, 0)."""

    def forward(self, x):
        return torch.randn(len(x), 3) + torch.tensor([1.0, 0.0, 0.0])


def answers(access, eot, victim=None, rows=100):
    attack = Listener(access)
    x, y = images(rows, (1, 2, 2)), torch.zeros(rows, dtype=torch.int64)
    criterion = criterion_named("never", 40)
    run = Run(
        victim or Noisy(), attack, x, y,
        budget=LOG_BUDGET * eot, batch_size=100, pool_size=100, criterion=criterion, deterministic=False, eot=eot,
    )  # fmt: skip
    return torch.cat(attack.told), run


def test_the_variance_of_the_averaged_logits_falls_as_one_over_m():
    eot = 5
    told, run = answers("score", eot)
    # 2,000 answers of 3 logits: the standard error of a variance is sqrt(2 / 6,000) of it, 1.8 %.
    assert float((told - torch.tensor([1.0, 0.0, 0.0])).var()) == pytest.approx(1 / eot, rel=0.1)
    assert run.total["attack"] == LOG_BUDGET * eot * 100
    assert sum(run.total.values()) == run.oracle.forwarded


def test_the_modal_label_is_told_to_attacks_that_read_labels():
    single, _ = answers("decision", 1)
    modal, _ = answers("decision", 9)
    # One draw is right with probability 0.63 (measured by 10^7 draws); a mode of nine is right more often.
    assert float((single == 0).double().mean()) == pytest.approx(0.634, abs=0.035)
    assert float((modal == 0).double().mean()) > 0.85
    assert modal.dtype == torch.int64


@pytest.mark.parametrize(
    ("labels", "y", "mode"),
    [
        ([2, 2, 1, 0], 0, 2),
        ([1, 1, 2, 2], 0, 1),
        ([3, 3, 1, 1], 3, 3),
        ([3, 1, 2, 0], 2, 2),
        ([0, 1, 3, 3], 0, 3),
        ([1, 2, 3, 2], 0, 2),
    ],
)
def test_ties_of_labels_go_to_the_right_one_else_to_the_first(labels, y, mode):
    assert most_frequent(torch.tensor([labels]), torch.tensor([y]), 4).tolist() == [mode]


@pytest.mark.parametrize("attack", others_slow([RayS, Square], 0))
def test_one_evaluation_is_the_plain_attack_to_the_bit(attack, clean):
    x, y = clean
    noisy = [
        Run(
            CoinFlip(),
            attack(eps=0.08),
            x,
            y % 3,
            budget=12,
            criterion=criterion_named("never", 40),
            deterministic=False,
            **options,
        )
        for options in ({}, {"eot": 1})
    ]
    assert noisy[0].records == noisy[1].records


@pytest.mark.parametrize(("budget", "billed"), [(0, 0), (2, 0), (3, 3), (10, 9), (12, 12)])
def test_no_query_starts_that_the_budget_cannot_pay(budget, billed):
    x, y = images(3, (1, 2, 2)), torch.zeros(3, dtype=torch.int64)
    run = Run(Constant(), RandomNoise(eps=0.1), x, y, budget=budget, eot=3)
    assert run.column("attack").tolist() == run.column("billed").tolist() == [billed] * 3
    assert set(run.shapes) <= {(4, 1, 2, 2)}
    assert sum(run.total.values()) == run.oracle.forwarded


def test_the_clock_of_every_evaluation_of_a_query_is_the_bill_before_it():
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            ticks = clock.current()
            seen.append(None if ticks is None else ticks.tolist())
            return nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 2).float()

    Run(Watching(), RandomNoise(eps=0.1), images(2, (1, 2, 2)), torch.zeros(2, dtype=torch.int64), budget=6, eot=2)
    assert [0, 0, 0, 0] in seen
    assert [2, 2, 2, 2] in seen
    assert [4, 4, 4, 4] in seen

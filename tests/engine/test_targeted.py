"""Targeted attacks: targets, starts, and when an image counts as adversarial."""

import pytest
import torch
from harness import Run, images, labelled
from torch import nn

from rfdlight.attacks import Attack, RandomNoise, RayS, Square
from rfdlight.engine import criterion_named
from rfdlight.errors import UserError
from rfdlight.testing.small_victims import Around


def run(victim, attack, rows=60, budget=100, **options):
    x, y = torch.full((rows, 1, 2, 2), 0.5), torch.zeros(rows, dtype=torch.int64)
    criterion = options.pop("criterion", criterion_named("sequential", 400))
    return Run(
        victim,
        attack,
        x,
        y,
        budget=budget,
        batch_size=10 * rows,
        pool_size=rows,
        criterion=criterion,
        deterministic=False,
        **options,
    )


def test_targets_are_wrong_classes_drawn_evenly_and_once_per_image():
    x, y = images(600, (1, 2, 2)), torch.arange(600) % 4

    class Right(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 4)

    records = Run(Right(), RandomNoise(eps=0.1, targeted=True), x, y, budget=0, batch_size=600, pool_size=600).records
    again = Run(Right(), RandomNoise(eps=0.1, targeted=True), x, y, budget=0, batch_size=100, pool_size=90).records
    assert [r.target for r in records] == [r.target for r in again]
    shift = (torch.tensor([r.target for r in records]) - y) % 4
    counts = shift.bincount(minlength=4)
    assert counts[0] == 0
    # 600 draws among 3: a standard deviation is 11.5.
    assert ((counts[1:] - 200).abs() <= 4 * 11.5).all()


def test_an_untargeted_record_has_no_target():
    assert {r.target for r in run(Around([2.0, 0.0, 0.0]), RandomNoise(eps=0.1), rows=4, budget=3).records} == {None}


def test_only_the_target_counts():
    # Class 1 is always the answer; an image whose target is class 2 must not be broken by it.
    records = run(Around([0.0, 6.0, 1.0]), RandomNoise(eps=0.1, targeted=True)).records
    by_target = {target: {r.verdict for r in records if r.target == target} for target in (1, 2)}
    assert by_target == {1: {"adversarial"}, 2: {"robust"}}
    assert all((r.success_query is not None) == (r.target == 1) for r in records)
    assert all(r.final_margin < 0 for r in records if r.target == 1)
    assert all(r.final_margin > 0 for r in records if r.target == 2)


def test_a_target_slightly_below_another_wrong_class_is_not_credited():
    # The target of most draws is close: class 1 leads class 2 by 0.3 deviations, far from the label's -3.
    records = run(Around([-3.0, 0.15, -0.15]), RandomNoise(eps=0.1, targeted=True)).records
    second = [r for r in records if r.target == 2]
    assert len(second) >= 15
    # Each of them is wrongly broken with probability at most 0.05; no one, as a rule.
    assert sum(r.success_query is not None or r.verdict == "adversarial" for r in second) <= 2
    assert sum(r.verdict == "robust" for r in second) >= 0.7 * len(second)


def test_a_target_that_leads_is_broken():
    records = run(Around([-3.0, 0.7, -0.7]), RandomNoise(eps=0.1, targeted=True)).records
    first = [r for r in records if r.target == 1]
    assert sum(r.success_query is not None for r in first) >= 0.9 * len(first)
    assert all(r.verdict == "adversarial" for r in first if r.success_query is not None)
    assert all(r.final_margin < 0 for r in first)


@pytest.mark.parametrize("rule", ["single", "paper", "never"])  # the default: the test above
def test_every_rule_knows_the_target(rule):
    attack = Square(eps=0.1, targeted=True)
    records = run(
        Around([0.0, 6.0, 1.0]),
        attack,
        criterion=criterion_named(rule, 400),
        budget=20,
    ).records
    for record in records:
        assert record.success_query is None or (record.target == 1 and rule != "never")
        assert rule == "never" or record.target == 2 or record.success_query is not None


def test_square_reaches_targets_of_a_real_network_and_an_easy_class_is_none(network, clean):
    x, y = clean
    found = Run(network, Square(eps=0.3, targeted=True), x, y, budget=150).records
    hit = [record for record in found if record.verdict == "adversarial"]
    assert len(hit) >= 2
    untargeted = Run(network, Square(eps=0.3), x, y, budget=150).records
    assert sum(record.verdict == "adversarial" for record in untargeted) >= len(hit)


def test_an_image_that_a_random_victim_gets_wrong_ends_with_the_margin_of_its_label():
    x, y = torch.full((6, 1, 2, 2), 0.5), torch.full((6,), 2)
    victim, attack = Around([0.0, 6.0, 1.0]), RandomNoise(eps=0.1, targeted=True)
    for record in Run(victim, attack, x, y, budget=5, deterministic=False).records:
        assert record.target in (0, 1)
        assert (record.clean_verdict, record.verdict, record.attack) == ("wrong", "misclassified", 0)
        assert record.final_margin == record.clean_margin == -1
        assert record.final_adversarial == record.final_evaluations == record.clean_evaluations == record.criterion


def test_a_target_tied_with_another_class_is_undecided():
    # Class 1 and 2 are equal in every answer, far above the label: neither target is reached or missed.
    class Tied(Around):
        def forward(self, x):
            answers = super().forward(x)
            moved = (x != 0.5).flatten(1).any(1)
            answers[moved, 2] = answers[moved, 1]
            return answers

    records = run(Tied([-5.0, 1.0, 1.0]), RandomNoise(eps=0.1, targeted=True), budget=20).records
    assert {record.verdict for record in records} == {"undecided"}
    assert {record.success_query for record in records} == {None}
    assert {record.final_margin for record in records} == {0}
    # The first look after the fewest evaluations finds that the most would not decide.
    assert {record.final_evaluations for record in records} == {50}
    assert {record.final_adversarial for record in records if record.target == 1} == {50}


def test_initially_wrong_images_stay_wrong_whatever_their_target(network, clean):
    x, y = clean
    for record in Run(network, Square(eps=0.1, targeted=True), x, (y + 1) % 5, budget=9).records:
        assert record.attack == 0
        assert record.verdict == "misclassified"
        assert record.final_adversarial == 1


class Starting(Attack):
    """Submits the image that it was given to start from."""

    access = "decision"
    norms = ("l2",)
    has_targeted_form = True
    needs_starting_point = True

    def init(self, x, y, seed):
        return {}

    def ask(self, state):
        return state["start"].clone()

    def tell(self, state, points, answer):
        assert (answer == state["target"]).all()

    def best(self, state):
        return state["start"]


def test_starts_are_images_of_the_target(network, clean):
    x, y = clean
    attack = Starting(eps=30.0, norm="l2", targeted=True)
    records = Run(network, attack, x, y, budget=3, starting_points=labelled(network, (3, 16, 16))).records
    assert {record.verdict for record in records} == {"adversarial"}
    assert {record.success_query for record in records} == {1}


def test_a_start_is_needed(network, clean):
    x, y = clean
    with pytest.raises(ValueError, match=r"starting_points.*Starting"):
        Run(network, Starting(eps=30.0, norm="l2", targeted=True), x, y, budget=3, starting_points=None)


def test_an_attack_without_a_targeted_form_says_so():
    with pytest.raises(UserError, match=r"^RayS has no targeted form; leave attack\.targeted at false$"):
        RayS(eps=0.1, targeted=True)

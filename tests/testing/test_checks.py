"""The checks for third parties pass what is right, and name what is wrong in one line."""

import pytest
import torch

from rfdlight.attacks import RandomNoise, RayS
from rfdlight.defenses import AAA, AveragedAnswers, FeatureNoise, InputNoise, LogitNoise
from rfdlight.testing import check_attack, check_defense
from rfdlight.testing.small_victims import OneHot, small_network


class LeavesThePixels(RandomNoise):
    def ask(self, state):
        return super().ask(state) + 0.01


class LeavesTheBall(RandomNoise):
    def best(self, state):
        return (super().best(state) + 0.1).clamp(0, 1)


class NamesTheSeed(RandomNoise):
    def init(self, x, y, seed):
        return {**super().init(x, y, seed), "seed": seed.clone()}


class SharesMemory(RandomNoise):
    def init(self, x, y, seed):
        columns = super().init(x, y, seed)
        return {**columns, "other": columns["step"]}


class ChangesAColumn(RandomNoise):
    def tell(self, state, points, answer):
        super().tell(state, points, answer)
        state["step"] = state["step"].float()


class ChangesTheLabels(RandomNoise):
    def tell(self, state, points, answer):
        super().tell(state, points, answer)
        state["y"] = answer.clone()


class ChangesItself(RandomNoise):
    def ask(self, state):
        self.calls = vars(self).get("calls", 0) + 1
        return super().ask(state)


class SeesTheBatch(RandomNoise):
    def ask(self, state):
        points = super().ask(state)
        return state["x"] + (points - state["x"]) / len(points)


class FollowsTheOrder(RandomNoise):
    def tell(self, state, points, answer):
        super().tell(state, points, answer)
        state["step"] = state["step"] + (torch.arange(len(points)) == 0)


class InventsSuccess(RandomNoise):
    def is_adversarial(self, state, labels):
        return torch.ones_like(labels, dtype=torch.bool)


class CountsEvaluations(RandomNoise):
    def ask(self, state):
        return self._point(state, state["step"] * self.eot)


FAULTS = [
    (LeavesThePixels, "[0, 1]"),
    (LeavesTheBall, "ball"),
    (NamesTheSeed, "seed"),
    (SharesMemory, "share memory"),
    (ChangesAColumn, "column step"),
    (ChangesTheLabels, "changed y"),
    (ChangesItself, "attributes"),
    (SeesTheBatch, "together"),
    (FollowsTheOrder, "together"),
    (InventsSuccess, "adversarial"),
    (CountsEvaluations, "two equal evaluations"),
]


@pytest.mark.parametrize(
    ("fault", "named"), FAULTS, ids=lambda value: value.__name__ if isinstance(value, type) else ""
)
def test_a_faulty_attack_is_named(fault, named):
    with pytest.raises(AssertionError) as caught:
        check_attack(fault(eps=0.05), budget=20, num_images=4)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_attack_without_a_radius_is_checked_and_left_unchanged():
    attack = RayS()
    check_attack(attack, budget=20, num_images=3)
    assert attack.eps is None


class Drops(InputNoise):
    def transform(self, x, place):
        return super().transform(x, place) * float("nan")


class WritesInPlace(InputNoise):
    def transform(self, x, place):
        return x.copy_(super().transform(x, place))


class SharesDraws(InputNoise):
    def transform(self, x, place):
        return x + 0.3 * torch.randn_like(x[:1])


class ClaimsToBeFixed(InputNoise):
    is_random = False


class LeavesHooks(InputNoise):
    def detach(self):
        self._handles.clear()


class IgnoresTheSwitch(LogitNoise):
    def _after(self, place, module, inputs, output):
        return self._changed(output, place)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (Drops, "NaN"),
        (WritesInPlace, "in place"),
        (SharesDraws, "per row"),
        (ClaimsToBeFixed, "is_random"),
        (LeavesHooks, "hooks"),
        (IgnoresTheSwitch, "undefended"),
    ],
)
def test_a_faulty_defense_is_named(fault, named):
    with pytest.raises(AssertionError) as caught:
        check_defense(fault(sigma=0.3))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "defense",
    [InputNoise(0.1), LogitNoise(0.1), FeatureNoise(sigma=0.1, layers="3"), AAA(), AveragedAnswers()],
    ids=lambda d: type(d).__name__,
)
def test_shipped_defenses_pass(defense):
    check_defense(defense)


def test_scores_that_hold_labels_are_one_hot():
    network = small_network()
    x = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(OneHot(network)(x).argmax(1), network(x).argmax(1))

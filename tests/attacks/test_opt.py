"""What is special to OPT; at the end, mutants that its checks must catch."""

import pytest
import torch
from attack_checks import caught, check_feasible
from harness import Constant, Linear, Run, drive, images, labelled, one_by_one
from reference.opt import opt
from test_signopt import check_reference, linear_victim

from rfdlight.attacks import OPT
from rfdlight.core.norms import norm as norm_of

START, CHECK, SAMPLE, TRY, SHRINK, GROW, BISECT = range(7)
SMALL = {"starting_points": 3, "samples": 3, "eps": 0.05}


def check_opt_reference(attack, victim, x, y, steps=300, target=None, begin=None):
    check_reference(attack, victim, x, y, steps, target, begin, reference=opt)


def check_steps(attack, victim, x, y, steps=250):
    """Directions have norm 1; radii never rise and are misclassified; a gradient takes `samples` searches."""
    answer = one_by_one(victim)
    searches, gradients = torch.zeros(len(x), dtype=torch.int64), 0
    for before, _, _, after in drive(attack, answer, x, y, budget=steps):
        size = norm_of(after["direction"], "l2")
        assert torch.allclose(size, torch.ones_like(size), atol=1e-5)
        assert (after["radius"] <= before["radius"]).all()
        fell = (after["radius"] < before["radius"]).nonzero()[:, 0]
        theta, radius = attack._nearest(after)
        found = (x + radius.float().view(-1, 1, 1, 1) * theta).clamp(0, 1)
        assert (answer(found).argmax(1) != y)[fell].all()
        searches += before["phase"] == SAMPLE
        ends = (before["sampled"] == attack.samples - 1) & (after["sampled"] == attack.samples)
        assert (searches[ends] == attack.samples).all()
        searches[ends] = 0
        gradients += int(ends.sum())
    assert gradients >= len(x), "no gradient: the check saw nothing"


def check_gradient(attack):
    """On a linear victim in l2, where g(theta) = -margin / (w . theta), samples add the differences that g has.

    A bisection to beta / 100 knows a slope to 0.01.
    """
    weight = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    x, y, seen = images(3, (1, 4, 4), seed=6) * 0.2 + 0.4, torch.zeros(3, dtype=torch.int64), 0
    victim = Linear(weight, float(0.2 - (x * weight).flatten(1).sum(1).min()))
    w, margin = weight.double().flatten(), victim(x)[:, 0]
    for before, _, _, after in drive(attack, victim, x, y, budget=250):
        for i in (after["sampled"] == before["sampled"] + 1).nonzero()[:, 0].tolist():
            u = attack._u({name: column[i : i + 1] for name, column in before.items()}).double().flatten()
            around = before["direction"][i].double().flatten() + 0.01 * u
            slope = float(-margin[i] * around.norm() / (w @ around) - before["radius"][i]) / 0.01
            added = float((after["gathered"] - before["gathered"])[i].double().flatten() @ u)
            assert abs(added - slope) <= 0.011 + 1e-3 * abs(slope), (added, slope)
            seen += 1
    assert seen >= 10


def check_linear(attack, most):
    """On a linear victim of 6 values, 500 queries come near its boundary in the median, and never nearer than it."""
    weight = torch.randn(1, 1, 2, 3, generator=torch.Generator().manual_seed(5))
    x, y = (images(3, (1, 2, 3), seed=6) * 0.2 + 0.4).repeat(4, 1, 1, 1), torch.zeros(12, dtype=torch.int64)
    victim = Linear(weight, float(0.4 - (x * weight).flatten(1).sum(1).min()))
    margin, weight = victim(x)[:, 0], weight.double()
    dual = weight.norm()
    for *_, after in drive(attack, victim, x, y, budget=500):
        assert (after["radius"] * dual >= margin * (1 - 1e-5)).all()
    ratio = after["radius"] * dual / margin
    assert ratio.median() <= most, ratio


def check_rugged_reference(attack):
    """On a boundary with waves as long as the samples, where line searches fail and samples are taken."""
    victim, x = linear_victim()
    waves = torch.tensor([0.1, 0.0])

    def rugged(points):
        return victim(points).float() + waves * torch.sin(600 * points.flatten(1).sum(1, keepdim=True))

    check_opt_reference(attack, rugged, x[:1], torch.zeros(1, dtype=torch.int64))


def test_each_query_is_the_references(network, clean):
    check_opt_reference(OPT(norm="l2", **SMALL), network, clean[0][:1], clean[1][:1])


@pytest.mark.slow
def test_each_query_is_the_references_past_the_smallest_samples():
    victim, x = linear_victim()
    attack = OPT(norm="l2", starting_points=2, samples=1, eps=0.05)
    check_opt_reference(attack, lambda p: victim(p).float(), x[:1], torch.zeros(1, dtype=torch.int64), 900)


def test_each_query_is_the_references_where_samples_are_nearer_than_steps():
    check_rugged_reference(OPT(norm="l2", starting_points=2, samples=3, eps=0.05))


def test_each_targeted_query_is_the_references(network, clean):
    x, y = clean[0][:2], clean[1][:2]
    target = (y + 1) % 5
    starts, classes = labelled(network, x.shape[1:])
    begin = starts[(classes == target[:, None]).long().argmax(1)]
    check_opt_reference(OPT(norm="l2", targeted=True, **SMALL), network, x, y, 150, target, begin)


@pytest.mark.slow
def test_directions_radii_and_samples_obey_the_paper(network, clean):
    check_steps(OPT(norm="l2", **SMALL), network, clean[0][:2], clean[1][:2])


@pytest.mark.slow
def test_samples_measure_the_slopes_of_a_plane():
    check_gradient(OPT(norm="l2", **SMALL))


@pytest.mark.slow
def test_a_linear_victims_distance_is_approached_and_never_beaten():
    # The medians of ten other sets of seeds are at most 1.052; up the gradient at least 1.33.
    check_linear(OPT(norm="l2", starting_points=5, samples=6, eps=0.05), 1.06)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_points_stay_in_the_ball(network, clean, norm):
    check_feasible(OPT(norm=norm, starting_points=2, samples=2, eps=0.02), network, clean[0][:2], clean[1][:2], 80)


def test_a_search_ends_where_a_sample_has_no_boundary():
    # Misclassified at its start alone: every sample grows to twice the radius and counts for nothing.
    x, y = images(1, (1, 4, 4)), torch.zeros(1, dtype=torch.int64)
    attack = OPT(norm="l2", starting_points=1, samples=2, eps=0.05)
    phase, seen = [START], []

    def answer(_):
        return torch.tensor([[0.0, 1.0]] if phase[0] == START else [[1.0, 0.0]])

    for before, _, _, after in drive(attack, answer, x, y, budget=500):
        seen.append(int(before["phase"]))
        phase[0] = int(after["phase"])
        assert not after["gathered"].any()
    assert seen.count(SAMPLE) >= 2
    assert TRY in seen


def test_starts_go_on_until_one_is_wrong():
    x, y = images(2, (3, 4, 4)), torch.zeros(2, dtype=torch.int64)
    run = Run(Constant(), OPT(starting_points=2, eps=0.05), x, y, budget=30)
    assert run.column("attack").tolist() == [30] * 2


class Climbs(OPT):
    """Sign: along the gradient."""

    def _stepped(self, state, alpha):
        return super()._stepped(state, -alpha)


class ForgetsBeta(OPT):
    """Size: differences are not divided by beta."""

    def _gather(self, state, rows):
        before = state["gathered"]
        super()._gather(state, rows)
        state["gathered"] = before + 0.01 * (state["gathered"] - before)


class ForgetsTheNearestSample(OPT):
    """Reading: a sample is never taken."""

    def _gather(self, state, rows):
        super()._gather(state, rows)
        state["sample_radius"] = torch.full_like(state["sample_radius"], torch.inf)


class SamplesOnceMore(OPT):
    """Budget: one sample more per gradient."""

    def _end_sample(self, state, rows):
        self.samples += 1
        super()._end_sample(state, rows)
        self.samples -= 1


class ReadsTheOpposite(OPT):
    """Reading: takes right for wrong."""

    def is_adversarial(self, state, labels):
        return ~super().is_adversarial(state, labels)


class LeavesTheBall(OPT):
    """Size: submits the nearest point where it lies."""

    def best(self, state):
        theta, radius = self._nearest(state)
        return self.point(state["x"], theta, torch.where(radius.isfinite(), radius, 1.0))


CAUGHT = [
    (ForgetsBeta, ["check_gradient", "check_opt_reference"]),
    (ForgetsTheNearestSample, ["check_rugged_reference"]),
    (SamplesOnceMore, ["check_opt_reference"]),
    (ReadsTheOpposite, ["check_opt_reference", "check_steps"]),
    (LeavesTheBall, ["check_feasible"]),
    (Climbs, ["check_linear"]),
]


OWN = {"check_linear": (1.06,), "check_gradient": (), "check_rugged_reference": ()}
"""The checks that take no victim, and their arguments."""


@pytest.mark.parametrize(("mutant", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, check, network, clean):
    attack = mutant(norm="l2", **{**SMALL, "eps": 0.02})
    victim = OWN.get(check, (network, clean[0][:1], clean[1][:1], 200))
    with pytest.raises(AssertionError):
        globals()[check](attack, *victim)

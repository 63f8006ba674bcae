"""What is special to Boundary."""

import math

import pytest
import torch
from attack_checks import caught
from harness import CoinFlip, Run, drive, images, next_classes, one_by_one, others_slow
from reference.boundary import boundary
from torch import nn

from rfdlight.attacks import Boundary
from rfdlight.attacks.paper import paper_behaviour
from rfdlight.core import rng
from rfdlight.engine import criterion_named
from rfdlight.errors import UserError

START, BLEND, SPHERE, PROPOSAL = range(4)
PHASES = ("start", "blend", "sphere", "proposal")


class Draws:
    """What the attack draws for one image."""

    def __init__(self, seed, shape):
        self.seed, self.shape = torch.tensor([seed]), shape

    def noise(self, number):
        return rng.uniform(self.seed, 0, torch.tensor([number]), math.prod(self.shape)).float().view(self.shape)

    def move(self, number):
        return rng.normal(self.seed, 1, torch.tensor([number]), self.shape)[0]


class Plane(nn.Module):
    """Two classes: images whose mean is above 0.46 are of class 0, darker ones of class 1."""

    def forward(self, x):
        margin = x.double().flatten(1).mean(1) - 0.46
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def grey(rows):
    return images(rows, (3, 4, 4), seed=6) * 0.2 + 0.4


def zeros(rows):
    return torch.zeros(rows, dtype=torch.int64)


def check_reference(attack, answer, x, y, budget, target=None, starting_points=None):
    """Query by query, points, purposes and steps are the reference's; at the end the nearest hit too."""
    seed = torch.arange(len(x)) + 100
    ticks = list(drive(attack, answer, x, y, budget=budget, target=target, starting_points=starting_points))
    for i in range(len(x)):
        history, nearest = boundary(
            lambda point: answer(point[None])[0],
            x[i],
            int(y[i]),
            budget,
            Draws(int(seed[i]), tuple(x.shape[1:])),
            attack.spherical_step,
            attack.source_step,
            attack.every,
            (attack.sphere_window, attack.proposal_window),
            None if target is None else int(target[i]),
            None if starting_points is None else starting_points[i],
        )
        assert len(history) == len(ticks)
        for q, (entry, (before, points, _, _)) in enumerate(zip(history, ticks, strict=True)):
            assert PHASES[int(before["phase"][i])] == entry["for"], f"image {i}, query {q}"
            assert float(before["sideways"][i]) == entry["sideways"], f"image {i}, query {q}"
            assert float(before["inwards"][i]) == entry["inwards"], f"image {i}, query {q}"
            assert torch.equal(points[i], entry["point"]), f"image {i}, query {q}"
        assert torch.equal(ticks[-1][3]["nearest"][i], nearest)


def check_geometry(attack, answer, x, y, budget=120):
    """Sidesteps are at right angles and of their length, proposals nearer to x; the distance never grows."""
    proposals = 0
    for before, points, _, after in drive(attack, answer, x, y, budget=budget):
        assert (after["distance"] <= before["distance"]).all()
        found = after["distance"].isfinite()
        distance = (after["nearest"] - x).flatten(1).norm(dim=1)
        assert torch.allclose(after["distance"][found], distance[found], rtol=1e-6)
        assert (answer(after["nearest"]).argmax(1) != y)[found].all()
        assert attack.threat.contains(x, attack.best(after)).all()
        assert torch.equal(
            paper_behaviour(attack).reports_success(after, found), found & attack.threat.contains(x, after["nearest"])
        )
        moving = before["phase"] >= SPHERE
        if moving.any():
            move = attack.sidestep(before).flatten(1)
            back = (x - before["nearest"]).flatten(1)
            length = back.norm(dim=1)
            scale = move.norm(dim=1)
            assert ((move * back).sum(1).abs() <= 1e-5 * scale * length)[moving].all()
            assert torch.allclose(scale[moving], (before["sideways"] * length)[moving].float(), rtol=1e-4)
            asked = (points - x).flatten(1).norm(dim=1)
            aside = before["phase"] == SPHERE
            inside = moving & ((points > 0) & (points < 1)).flatten(1).all(1)
            assert torch.allclose(asked[inside & aside], length[inside & aside], rtol=1e-4)
            inwards = length * (1 - before["inwards"]).float()
            assert torch.allclose(asked[inside & ~aside], inwards[inside & ~aside], rtol=1e-4)
            assert (asked[moving] <= length[moving] * (1 + 1e-5)).all()
            proposals += int(inside.sum())
    assert proposals >= 30, "too few proposals to see"


def check_adaptation(attack, sphere, proposal, queries=1150):
    """Answers of fixed frequencies change the steps when and as the windows say; every nth proposal is seen."""
    x, y = grey(1), zeros(1)
    expected = [attack.spherical_step, attack.source_step]
    every, wide, narrow = attack.every, attack.sphere_window, attack.proposal_window
    steps, spheres, asked, number, changes = [], [], 0, 0, 0
    phase = START

    def answer(_):
        hit = phase <= BLEND or (next(sphere) if phase == SPHERE else next(proposal))
        return torch.tensor([[0.0, 1.0]] if hit else [[1.0, 0.0]])

    for before, _, logits, after in drive(attack, answer, x, y, budget=queries):
        hit = bool(logits.argmax())
        if phase == PROPOSAL:
            number += 1
        if phase == SPHERE:
            assert number == every * asked + every - 1
            asked += 1
            spheres.append(hit)
        elif phase == PROPOSAL and number % every == 0:
            assert before["phase"] == PROPOSAL
            steps.append(hit)
            rate = sum(spheres[-wide:]) / wide
            if len(spheres) >= wide and not 0.2 <= rate <= 0.5:
                factor = 1.5 if rate > 0.5 else 1 / 1.5
                expected, spheres, changes = [step * factor for step in expected], [], changes + 1
            rate = sum(steps[-narrow:]) / narrow
            if len(steps) >= narrow and not 0.1 <= rate <= 0.25:
                expected[1] *= 1.5 if rate > 0.25 else 1 / 1.5
                steps, changes = [], changes + 1
            expected = [min(max(step, 1e-7), 0.5) for step in expected]
        assert math.isclose(float(after["sideways"]), expected[0], rel_tol=1e-9)
        assert math.isclose(float(after["inwards"]), expected[1], rel_tol=1e-9)
        phase = int(after["phase"])
    return changes


def repeat(*answers):
    while True:
        yield from answers


PATTERNS = {
    "always": (repeat(True), repeat(True), 4),
    "sometimes": (repeat(True, False, False), repeat(*[True, *[False] * 6]), 0),
}
"""Answers at spherical points and at proposals; how often the steps change at least."""


@pytest.mark.slow
@pytest.mark.parametrize("pattern", others_slow(PATTERNS, 1))
def test_steps_adapt_to_the_rates_of_success(pattern):
    sphere, proposal, least = PATTERNS[pattern]
    changes = check_adaptation(Boundary(eps=0.5, norm="l2"), sphere, proposal, 1150 if least else 400)
    assert changes >= least
    assert (changes == 0) == (least == 0)


def test_each_query_is_the_references(network, clean):
    attack = Boundary(eps=0.5, norm="l2", spherical_step=0.05, source_step=0.03)
    check_reference(attack, one_by_one(network), clean[0][:1], clean[1][:1], 80)


@pytest.mark.parametrize(
    "windows", [{}, {"every": 10, "sphere_window": 3, "proposal_window": 7}], ids=["ours", "other"]
)
def test_each_query_is_the_references_while_steps_adapt(windows):
    check_reference(Boundary(eps=0.5, norm="l2", **windows), one_by_one(Plane()), grey(1), zeros(1), 200)


def test_a_targeted_attack_is_the_references_from_its_start(network, clean):
    x, y = clean[0][:2], clean[1][:2]
    target, starting_points = next_classes(network, x, y)
    attack = Boundary(eps=0.5, norm="l2", targeted=True)
    check_reference(attack, one_by_one(network), x, y, 50, target, starting_points)


@pytest.mark.slow
def test_proposals_measure_as_in_the_paper_on_a_plane():
    attack = Boundary(eps=0.5, norm="l2")
    check_geometry(attack, one_by_one(Plane()), grey(3), zeros(3))


@pytest.mark.slow
def test_proposals_measure_as_in_the_paper_on_a_network(network, clean):
    check_geometry(Boundary(eps=3.0, norm="l2"), one_by_one(network), clean[0][:2], clean[1][:2], 80)


@pytest.mark.slow
def test_a_planes_exact_distance_is_approached_and_never_beaten():
    x = grey(2)
    least = (x.double().flatten(1).mean(1) - 0.46) * math.sqrt(48)
    ticks = drive(Boundary(eps=0.5, norm="l2", spherical_step=0.1, source_step=0.05), Plane(), x, zeros(2), budget=800)
    for *_, after in ticks:
        assert (after["distance"] >= least * (1 - 1e-5)).all()
    assert (after["distance"] <= 1.5 * least).all(), after["distance"] / least


@pytest.mark.parametrize("query_counting", ["exact", "paper"])
def test_the_papers_bills_leave_out_the_start(query_counting):
    run = Run(Plane(), Boundary(eps=0.001, norm="l2"), grey(4), zeros(4), budget=40, query_counting=query_counting)
    assert run.column("billed").tolist() == [40] * 4
    seed = torch.tensor([rng.image_seed(0, f"test/{i:04d}") for i in range(4)])
    *_, after = list(drive(Boundary(eps=0.001, norm="l2"), Plane(), grey(4), zeros(4), budget=80, seed=seed))[-1]
    assert (after["opened"] >= 11).all()
    extra = after["opened"] if query_counting == "paper" else 0
    assert (run.column("attack") == 40 + extra).all()


@pytest.mark.slow
def test_a_victim_of_random_labels_leads_to_no_number_that_is_not_finite():
    x = grey(4)
    torch.manual_seed(0)
    for *_, after in drive(Boundary(eps=0.001, norm="l2", spherical_step=0.5), CoinFlip(), x, zeros(4), budget=60):
        assert after["nearest"].isfinite().all()
        assert after["sideways"].isfinite().all()
    run = Run(
        CoinFlip(),
        Boundary(eps=0.5, norm="l2", source_step=0.5),
        x,
        zeros(4),
        budget=100,
        deterministic=False,
        criterion=criterion_named("never", final_evaluations=40),
    )
    assert len(run.records) == 4


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"spherical_step": 0.0}, "attack.spherical_step must lie in (0, 0.5], got 0.0"),
        ({"source_step": 0.6}, "attack.source_step must lie in (0, 0.5], got 0.6"),
        ({"adaptation": 1.0}, "attack.adaptation must be greater than 1, got 1.0"),
        ({"every": 0}, "attack.every: expected at least 1, got 0"),
        ({"sphere_window": 0}, "attack.sphere_window: expected at least 1, got 0"),
        ({"proposal_window": 0}, "attack.proposal_window: expected at least 1, got 0"),
        ({"norm": "linf"}, "attack.norm of Boundary must be l2, got linf"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, text):
    with pytest.raises(UserError) as caught:
        Boundary(**{"eps": 0.5, "norm": "l2", **options})
    assert str(caught.value) == text


class StepsOutwards(Boundary):
    """Sign: proposals step away from x."""

    def _proposal(self, state):
        return (2 * self._spherical(state) - super()._proposal(state)).clamp(0, 1)


class LeavesTheSphere(Boundary):
    """Size: sidesteps have a part along the way to x."""

    def sidestep(self, state):
        return super().sidestep(state) + 0.001 * (state["x"] - state["nearest"])


class SidestepsTooFar(Boundary):
    """Size: twice the sidestep."""

    def sidestep(self, state):
        return 2 * super().sidestep(state)


class ReadsTheOpposite(Boundary):
    """Reading: takes right for wrong."""

    def tell(self, state, points, answer):
        super().tell(state, points, 1 - answer.clamp_max(1))


class AdaptsTheWrongWay(Boundary):
    """Schedule: steps shrink where they should grow."""

    def _adapt(self, state, which, rows, rates, steps):
        self.adaptation = 1 / 1.5
        super()._adapt(state, which, rows, rates, steps)


class NeverClearsItsWindow(Boundary):
    """Schedule: after a change, old answers count again."""

    def _adapt(self, state, which, rows, rates, steps):
        count = state[f"{which}_count"]
        super()._adapt(state, which, rows, rates, steps)
        state[f"{which}_count"] = count


class AsksTheSphereTwice(Boundary):
    """Budget: every spherical point is asked again."""

    def tell(self, state, points, answer):
        again = (state["phase"] == SPHERE) & (state["sphere_count"] % 2 == 0)
        super().tell(state, points, answer)
        state["phase"] = torch.where(again, SPHERE, state["phase"])


CAUGHT = [
    (StepsOutwards, ["reference", "geometry"]),
    (LeavesTheSphere, ["reference", "geometry"]),
    (SidestepsTooFar, ["reference", "geometry"]),
    (ReadsTheOpposite, ["reference", "geometry"]),
    (AdaptsTheWrongWay, ["adaptation"]),
    (NeverClearsItsWindow, ["adaptation"]),
    (AsksTheSphereTwice, ["reference", "adaptation"]),
]


@pytest.mark.parametrize(("mutant", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, check):
    attack, plane = mutant(eps=0.5, norm="l2"), (one_by_one(Plane()), grey(2), zeros(2))
    checks = {
        "reference": lambda: check_reference(attack, *plane, 150),
        "geometry": lambda: check_geometry(attack, *plane, 100),
        "adaptation": lambda: check_adaptation(attack, repeat(True), repeat(True)),
    }
    with pytest.raises(AssertionError):
        checks[check]()

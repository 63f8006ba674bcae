"""What is special to GeoDA; at the end, mutants that its checks must catch."""

import math
from itertools import pairwise

import pytest
import torch
from attack_checks import caught, check_feasible
from harness import Constant, Linear, Run, counted, drive, images, one_by_one, others_slow
from reference.geoda import geoda
from reference.geoda import split as reference_split
from torch import nn

from rfdlight.attacks import GeoDA
from rfdlight.attacks.decision_based import along
from rfdlight.attacks.geoda import low_waves, query_split
from rfdlight.attacks.paper import paper_behaviour
from rfdlight.core import rng
from rfdlight.core.norms import norm as norm_of
from rfdlight.engine import criterion_named
from rfdlight.errors import UserError

START, BISECT, PROBE, WALK = range(4)
BUDGET = 100
"""Of which GeoDA makes iterations of 75 probes."""
PURPOSES = ("start", "bisect", "probe", "walk")


def check_reference(attack, victim, x, y, steps):
    """Query by query, points are the same bits as the reference's, for the same purpose and with the same answer."""
    answer = one_by_one(victim)
    histories = []
    for i in range(len(x)):
        key = torch.tensor([100 + i])

        def draws(stream, number, shape, key=key):
            return rng.normal(key, stream, torch.tensor([number]), tuple(shape))[0]

        options = {"sub_dim": attack.sub_dim, "alpha": attack.alpha, "kappa": attack.kappa}
        options |= {"norm": attack.norm, "budget": BUDGET, "steps": steps, "draws": draws}
        histories.append(geoda(lambda p: answer(p[None])[0], x[i], int(y[i]), **options))
        assert {entry["purpose"] for entry in histories[-1]} == set(PURPOSES)
    ticks = drive(attack, answer, x, y, budget=BUDGET, steps=steps)
    for q, (entries, (before, points, logits, _)) in enumerate(zip(zip(*histories, strict=True), ticks, strict=True)):
        for i, entry in enumerate(entries):
            assert entry["purpose"] == PURPOSES[int(before["phase"][i])], f"image {i}, query {q}"
            assert torch.equal(points[i], entry["point"]), f"image {i}, query {q}"
            assert bool(logits[i].argmax() != y[i]) == entry["wrong"], f"image {i}, query {q}"


def check_steps(attack, victim, x, y, steps):
    """Bisections end in a gap of 1e-4 around the boundary, after as many queries as the formula says; b is wrong."""
    answer = one_by_one(victim)
    taken = torch.zeros(len(x), dtype=torch.int64)
    probes = torch.zeros(len(x), dtype=torch.int64)
    closed = 0
    for before, points, logits, after in drive(attack, answer, x, y, budget=BUDGET, steps=steps):
        wrong = logits.argmax(1) != y
        ends = [(x + per(after[name]) * (after["far"] - x)).clamp(0, 1) for name in ("low", "high")]
        for i in range(len(x)):
            phase, later = int(before["phase"][i]), int(after["phase"][i])
            taken[i] = taken[i] + 1 if phase == BISECT else 0
            probes[i] = probes[i] + 1 if phase == PROBE else 0
            if phase == BISECT and later == PROBE:
                assert int(taken[i]) == math.ceil(math.log2(float(before["span"][i]) / 1e-4))
                assert (ends[1][i] - ends[0][i]).norm() <= 1e-4 + 1e-6
                low, high, nearest = answer(torch.stack([ends[0][i], ends[1][i], after["nearest"][i]])).argmax(1)
                assert low == y[i]
                assert high != y[i]
                assert nearest != y[i]
                closed += 1
            if phase == PROBE:
                # w has sub_dim^2 normal coefficients per channel, 300 in all: its length varies by 4 %.
                length = (points[i] - ends[1][i]).norm() / (attack.alpha * math.sqrt(before["normal"][i].numel()))
                assert 0.5 <= length <= 1.25
                assert later != WALK or int(probes[i]) == query_split(BUDGET)[0]
            if phase in (START, WALK):
                assert (later == BISECT) == bool(wrong[i])
        known = after["distance"].isfinite()
        assert torch.equal(norm_of(after["nearest"] - x, attack.norm)[known], after["distance"][known])
        assert (after["distance"] <= before["distance"]).all()
    assert closed >= 2 * len(x), "no iteration ended: the check saw nothing"


def per(column):
    return column.float().view(-1, 1, 1, 1)


def flat_victim(count=3, side=8):
    """A linear victim whose weights are made of the 4 lowest modes, and images with margins of their own."""
    generator = torch.Generator().manual_seed(5)
    weight = low_waves(torch.randn(1, 1, 2, 2, generator=generator), side, side)
    x = images(count, (1, side, side), seed=6) * 0.2 + 0.4
    return Linear(weight, float(0.8 - (x * weight).flatten(1).sum(1).min())), x


def check_linear(attack):
    """With 2 modes per side, 500 queries come within 5 % of a linear victim's boundary, and never nearer than it.

    The first normal is the mean of 56 signed draws in 4 dimensions, a cosine of about 0.96; later ones add hundreds.
    """
    victim, x = flat_victim()
    y = torch.zeros(len(x), dtype=torch.int64)
    margin, weight = victim(x)[:, 0], victim.weight.double()
    dual = weight.norm() if attack.norm == "l2" else weight.abs().sum()
    for *_, after in drive(attack, victim, x, y, budget=500):
        assert (after["distance"].double() * dual >= margin * (1 - 1e-5)).all()
    ratio = after["distance"].double() * dual / margin
    assert ratio.max() <= 1.05, ratio


def check_split(attack):
    """Rows with different budgets get the shares of their own, and begin the split anew when it is used up."""
    x, y = images(3, (1, 8, 8)), torch.zeros(3, dtype=torch.int64)
    state = {"x": x, "y": y, "seed": torch.arange(3), "target": torch.full_like(y, -1)}
    state |= {"budget": torch.tensor([1000, 100, 500]), **attack.init(x, y, torch.arange(3))}
    shares = [[], [], []]
    for _ in range(400):
        was = state["phase"].clone()
        points = attack.ask(state)
        attack.tell(state, points, (norm_of(points - x, "l2") > 0.4).long())
        for i in range(3):
            if was[i] == PROBE and state["phase"][i] == WALK:
                shares[i].append(int(state["probed"][i]))
    assert shares[0][:2] == [79, 111]
    assert shares[1][:3] == [75, 75, 75]
    assert shares[2][:3] == [56, 79, 110]


@pytest.mark.parametrize(("norm", "steps"), [("l2", 220), ("linf", 140)])
def test_each_query_is_the_references(network, clean, norm, steps):
    check_reference(GeoDA(norm=norm, eps=0.05), network, clean[0][:1], clean[1][:1], steps)


def test_each_query_is_the_references_with_other_options(network, clean):
    attack = GeoDA(norm="l2", eps=0.5, sub_dim=3, alpha=1e-3, kappa=0.05)
    check_reference(attack, network, clean[0][2:3], clean[1][2:3], 120)


@pytest.mark.slow
@pytest.mark.parametrize("norm", others_slow(["l2", "linf"], 0))
def test_bisections_probes_and_distances_obey_the_paper(network, clean, norm):
    check_steps(GeoDA(norm=norm, eps=0.05), network, clean[0][:2], clean[1][:2], 150)


@pytest.mark.slow
def test_a_linear_victims_distance_is_found_and_never_beaten():
    check_linear(GeoDA(norm="l2", eps=0.05, sub_dim=2))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_points_stay_in_the_ball(network, clean, norm):
    check_feasible(GeoDA(norm=norm, eps=0.02), network, clean[0][:3], clean[1][:3])


@pytest.mark.slow
def test_rows_split_their_own_budgets():
    check_split(GeoDA(eps=0.05))


@pytest.mark.parametrize("budget", [0, 1, 25, 26, 60, 100, 250, 500, 999, 1000, 3000, 10000, 20000])
def test_the_split_is_geometric_and_sums_to_the_budget_less_25_per_iteration(budget):
    shares = query_split(budget)
    assert min(shares) >= 1
    assert list(shares) == reference_split(budget)
    if budget > 26:
        # Each share is rounded to the next whole number.
        assert abs(sum(shares) - (budget - 25 * len(shares))) <= len(shares) / 2
    for share, after in pairwise(shares):
        assert abs(after - share / 0.6 ** (2 / 3)) <= 1.3


@pytest.mark.slow
def test_the_first_share_lies_between_50_and_80_unless_it_jumps_across():
    outside = {budget: query_split(budget) for budget in range(105, 4000) if not 50 <= query_split(budget)[0] <= 80}
    for budget, shares in outside.items():
        growth = 0.6 ** (-2 / 3)
        for count in range(1, 20):
            first = max(budget - 25 * count, 0) * (growth - 1) / (growth**count - 1)
            assert not 50 <= round(first, 6) <= 80 or abs(first - shares[0]) < 0.6, (budget, count)
    assert query_split(250) == (83, 117)  # one iteration would take 225, three would begin with 40


def test_waves_are_the_lowest_rows_of_the_orthonormal_cosine_transform():
    weights = torch.eye(12).view(12, 1, 3, 4)
    waves = low_waves(weights, 5, 6).flatten(1)
    assert torch.allclose(waves @ waves.T, torch.eye(12), atol=1e-6)
    changes = (waves.view(12, 5, 6).sign().diff(dim=1).abs().sum(1) / 2).amax(1)
    assert changes.tolist() == [u for u in range(3) for _ in range(4)]
    assert torch.equal(low_waves(weights[3:5], 5, 6), low_waves(weights, 5, 6)[3:5])


def test_the_noise_of_the_start_grows_by_0_02():
    x, y = torch.full((2, 3, 32, 32), 0.5), torch.zeros(2, dtype=torch.int64)
    answer = torch.tensor([[1.0, 0.0]]).expand(2, 2)
    for j, (_, points, *_) in enumerate(drive(GeoDA(eps=0.05), lambda _: answer, x, y, budget=8), 1):
        # 3072 normal draws: their standard deviation is within 6 % of the truth (5 of its own deviations).
        assert (points - x).flatten(1).std(1).sub(0.02 * j).abs().max() <= 0.06 * 0.02 * j


def failed_walk(attack):
    """One image whose walks find nothing: the states before and after the first one, and the walk's points."""
    x, y = images(1, (1, 8, 8)), torch.zeros(1, dtype=torch.int64)
    calls = {"probed": False}

    def answer(points):
        calls["probed"] |= bool(state and state[-1]["phase"][0] == PROBE)
        far = norm_of(points - x, "l2") > 0.3
        return nn.functional.one_hot((far & (not calls["probed"])).long(), 2).float()

    state, walked = [], []
    for before, points, _, after in drive(attack, answer, x, y, budget=100, steps=300):
        state.append(after)
        if before["phase"][0] == WALK:
            walked.append((before, points, after))
        if walked and after["phase"][0] != WALK:
            return walked
    return walked


def test_a_walk_that_finds_nothing_ends_after_100_tries_and_leaves_b():
    walked = failed_walk(GeoDA(norm="l2", eps=0.05))
    assert len(walked) == 100
    first, last = walked[0][0], walked[-1][2]
    assert last["phase"] == PROBE
    assert last["probed"] == 0
    assert last["iteration"] == first["iteration"] + 1
    for name in ("far", "high", "nearest", "distance"):
        assert torch.equal(first[name], last[name])
    assert torch.equal(first["normal"], last["normal"])


def test_the_paper_asks_the_clean_image_first_and_does_not_clip_noise(network, clean):
    x, y = clean[0][:3], clean[1][:3]
    attack = counted(GeoDA(eps=0.05, norm="l2"), "paper")
    paper = list(drive(attack, one_by_one(network), x, y, budget=4))
    exact = list(drive(GeoDA(eps=0.05, norm="l2"), one_by_one(network), x, y, budget=3))
    assert torch.equal(paper[0][1], x)
    assert paper[1][1].min() < 0
    assert torch.equal(paper[1][1].clamp(0, 1), exact[0][1])


def test_the_paper_bills_every_answer_and_ends_with_its_split(network, clean):
    x, y = clean[0][:2], clean[1][:2]
    exact = Run(network, GeoDA(eps=1e-6, norm="l2"), x, y, budget=100, criterion=criterion_named("never"))
    paper = Run(
        network,
        GeoDA(eps=1e-6, norm="l2"),
        x,
        y,
        budget=100,
        criterion=criterion_named("never"),
        query_counting="paper",
    )
    assert exact.column("attack").tolist() == [100] * 2
    # One iteration of 75 probes; the search for a start and two bisections carry it over the budget, or not.
    for i, count in enumerate(paper.column("attack").tolist()):
        attack = counted(GeoDA(eps=1e-6, norm="l2"), "paper")
        seed = torch.tensor([rng.image_seed(0, f"test/{i:04d}")])
        ticks = drive(attack, one_by_one(network), x[i, None], y[i, None], budget=100, steps=300, seed=seed)
        ended = next(q for q, (*_, after) in enumerate(ticks, 1) if int(after["iteration"]) == 1)
        assert count == ended
    assert (paper.column("attack") != 100).all()
    assert torch.equal(paper.column("billed"), paper.column("attack").clamp_max(100))


def test_the_paper_stops_a_search_for_a_start_at_the_budget():
    x, y = images(3, (3, 4, 4)), torch.zeros(3, dtype=torch.int64)
    run = Run(Constant(), GeoDA(eps=0.05), x, y, budget=30, query_counting="paper")
    assert run.column("attack").tolist() == [30] * 3


def test_a_claim_is_a_new_b_within_the_ball(network, clean):
    x, y = clean
    attack = GeoDA(eps=1.5, norm="l2")
    claimed = 0
    for before, _, _, after in drive(attack, one_by_one(network), x, y, budget=40):
        reports_success = paper_behaviour(attack).reports_success(after, before["phase"] >= 0)
        assert (before["phase"][reports_success] == BISECT).all()
        assert (norm_of(attack.best(after) - x, "l2")[reports_success] <= 1.5 * (1 + 1e-4)).all()
        assert (after["distance"][reports_success] <= 1.5 * (1 + 1e-4)).all()
        claimed += int(reports_success.sum())
    assert claimed >= 2


def test_repeated_evaluations_shorten_the_split():
    attack = GeoDA(eps=0.05).configured(eot=2)
    x, y = images(1, (1, 8, 8)), torch.zeros(1, dtype=torch.int64)
    answer = Linear(torch.ones(1, 1, 8, 8), float(0.5 - x.sum()))
    *_, (_, _, _, after) = drive(attack, answer, x, y, budget=1000, steps=60)
    assert int(after["quota"]) == query_split(500)[0] == 56


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sub_dim": 0}, "attack.sub_dim must be at least 1, got 0"),
        ({"alpha": 0.0}, r"attack.alpha must be a positive number, got 0\.0"),
        ({"kappa": -1.0}, r"attack.kappa must be a positive number, got -1\.0"),
        ({"kappa": float("inf")}, "attack.kappa must be a positive number, got inf"),
        ({"targeted": True}, "GeoDA has no targeted form; leave attack.targeted at false"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        GeoDA(**options)


class WalksAway(GeoDA):
    """Sign: along the normal's opposite."""

    def _direction(self, normal):
        return -super()._direction(normal)


class ProbesTooFar(GeoDA):
    """Size: probes of twice alpha."""

    def _probe(self, state):
        here = along(state, state["high"])
        return (2 * super()._probe(state) - here).clamp(0, 1)


class LeavesTheBall(GeoDA):
    """Size: submits the nearest point where it lies."""

    def best(self, state):
        return state["nearest"]


class ProbesOnceMore(GeoDA):
    """Budget: one probe more per iteration than its share."""

    def _begin(self, state, begins):
        super()._begin(state, begins)
        state["quota"] = state["quota"] + begins


class SplitsTheFirstBudget(GeoDA):
    """Budget: all rows have the first one's."""

    def _begin(self, state, begins):
        first = {**state, "budget": state["budget"][:1].repeat(len(begins))}
        super()._begin(first, begins)
        state.update({name: first[name] for name in ("iteration", "probed", "gathered", "quota")})


class ForgetsNormals(GeoDA):
    """Reading: each iteration's normal replaces the one before."""

    def tell(self, state, points, answer):
        before = state["normal"].clone()
        super().tell(state, points, answer)
        renewed = (state["normal"] != before).flatten(1).any(1).view(-1, 1, 1, 1)
        state["normal"] = torch.where(renewed, state["normal"] - before, before)


class ReadsTheOpposite(GeoDA):
    """Reading: takes right for wrong."""

    def is_adversarial(self, state, labels):
        return ~super().is_adversarial(state, labels)


VICTIM = {"check_reference": 220, "check_steps": 150, "check_feasible": 60}
"""The checks that take a victim, and the budgets."""

CHECKS = {
    "check_reference": check_reference,
    "check_steps": check_steps,
    "check_linear": check_linear,
    "check_split": check_split,
    "check_feasible": check_feasible,
}

CAUGHT = [
    (LeavesTheBall, ["check_feasible"]),
    (SplitsTheFirstBudget, ["check_split"]),
    (ReadsTheOpposite, ["check_steps", "check_reference"]),
    (ProbesTooFar, ["check_steps", "check_reference"]),
    (ProbesOnceMore, ["check_split", "check_reference", "check_steps"]),
    (ForgetsNormals, ["check_reference"]),
    (WalksAway, ["check_linear", "check_reference"]),
]


@pytest.mark.parametrize(("mutant", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, check, network, clean):
    options = {"sub_dim": 2} if check == "check_linear" else {}
    victim = (network, clean[0][:1], clean[1][:1], VICTIM[check]) if check in VICTIM else ()
    with pytest.raises(AssertionError):
        CHECKS[check](mutant(eps=0.02, norm="l2", **options), *victim)

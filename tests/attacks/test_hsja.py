"""What is special to HopSkipJump."""

import math
from itertools import pairwise

import pytest
import torch
from harness import Run, drive, images, next_classes, one_by_one, others_slow
from reference.hsja import hsja

from rfdlight.attacks import HSJA
from rfdlight.attacks.paper import paper_behaviour
from rfdlight.core import rng
from rfdlight.errors import UserError

START, BLEND, PROJECT, GRADIENT, STEP = range(5)
PHASES = ("start", "blend", "project", "probe", "step")


class Draws:
    """What the attack draws for one image."""

    def __init__(self, seed, shape, norm):
        self.seed, self.shape, self.norm = torch.tensor([seed]), shape, norm

    def noise(self, number):
        flat = rng.uniform(self.seed, 0, torch.tensor([number]), math.prod(self.shape))
        return flat.float().view(self.shape)

    def probe(self, number):
        number = torch.tensor([number])
        if self.norm == "l2":
            return rng.normal(self.seed, 1, number, self.shape)[0]
        count = math.prod(self.shape)
        return rng.words(self.seed, 1, number, (count + 1) // 2).view(torch.int32)[0, :count].float().view(self.shape)


def halfspace(x, distance=0.3, seed=4):
    """A victim of two classes whose boundary is a plane at an l2 distance from each row of x; and its unit normal."""
    weight = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight /= weight.norm()

    def answer(points):
        margin = ((points.double() - x.double()) * weight).flatten(1).sum(1) + distance
        return torch.stack([margin, torch.zeros_like(margin)], 1)

    return answer, weight


def grey(rows, shape=(3, 4, 4)):
    """Images far from both ends of the range, so that the plane is reached inside it."""
    return images(rows, shape, seed=6) * 0.2 + 0.4


def check_reference(attack, answer, x, y, budget, target=None, starting_points=None):
    """Query by query, points and purposes are the reference's; at the end the nearest hit too."""
    seed = torch.arange(len(x)) + 100
    ticks = list(drive(attack, answer, x, y, budget=budget, target=target, starting_points=starting_points))
    for i in range(len(x)):

        def model(point, i=i):
            rows = x.clone()
            rows[i] = point
            return answer(rows)[i]

        history, nearest = hsja(
            model,
            x[i],
            int(y[i]),
            attack.norm,
            budget,
            Draws(int(seed[i]), tuple(x.shape[1:]), attack.norm),
            attack.init_probes,
            attack.max_probes,
            attack.gap,
            None if target is None else int(target[i]),
            None if starting_points is None else starting_points[i],
        )
        assert len(history) == len(ticks)
        for q, (entry, (before, points, _, _)) in enumerate(zip(history, ticks, strict=True)):
            assert PHASES[int(before["phase"][i])] == entry["for"], f"image {i}, query {q}"
            assert int(before["iteration"][i]) == entry["t"], f"image {i}, query {q}"
            assert torch.equal(points[i], entry["point"]), f"image {i}, query {q}"
        assert torch.equal(ticks[-1][3]["nearest"][i], nearest)
        assert history[-1]["t"] >= 2, "too few queries to see an iteration after the first"


def check_counts(attack, budget=700):
    """Each phase takes as many queries as the paper's formulas say, and moves on where it should."""
    x = grey(3)
    answer, _ = halfspace(x)
    y = torch.zeros(3, dtype=torch.int64)
    d = x[0].numel()
    bisections = math.ceil(math.log2(d**1.5 if attack.norm == "l2" else d**2))
    runs = [[] for _ in x]
    for before, _, logits, _ in drive(attack, answer, x, y, budget=budget):
        for i, run in enumerate(runs):
            phase, t = int(before["phase"][i]), int(before["iteration"][i])
            if not run or run[-1][:2] != [phase, t]:
                run.append([phase, t, 0, None])
            run[-1][2] += 1
            run[-1][3] = bool(logits[i].argmax() == 1)
    for run in runs:
        assert [phase for phase, *_ in run[:4]] == [START, BLEND, PROJECT, GRADIENT]
        for (phase, t, queries, hit), (following, later, *_) in pairwise(run):
            if phase == START:
                assert hit
                assert following == BLEND
            elif phase == BLEND:
                assert queries == 10
            elif phase == PROJECT:
                assert queries == bisections
                assert (following, later) == (GRADIENT, t + 1)
            elif phase == GRADIENT:
                assert queries == min(math.floor(attack.init_probes * math.sqrt(t)), attack.max_probes)
                assert following == STEP
            else:
                assert hit or queries == 20
                assert following == (PROJECT if hit else GRADIENT)
        assert run[-1][1] >= 3, "too few iterations to see"


def check_geometry(attack, budget=500):
    """Probes and steps have the lengths of the paper, the normal has length 1, the point drawn near is near."""
    x = grey(3)
    answer, weight = halfspace(x)
    y = torch.zeros(3, dtype=torch.int64)
    d = x[0].numel()
    size = (math.sqrt(d) * d**-1.5) if attack.norm == "l2" else d * d**-2.0
    before_last, misses, steps = torch.zeros(3), [0, 0, 0], 0
    for before, points, logits, _ in drive(attack, answer, x, y, budget=budget):
        for i in range(3):
            phase, t, b = int(before["phase"][i]), int(before["iteration"][i]), before["point"][i]
            distance = attack.threat.distance(x[i, None], b[None])[0]
            if phase == PROJECT and before["low"][i] == 0 and before["high"][i] == 1:
                before_last[i] = distance
            if phase == GRADIENT:
                offset = points[i] - b
                expected = 0.1 if t == 1 else size * float(before_last[i])
                inside = ((points[i] > 0) & (points[i] < 1)).all()
                assert float(offset.norm()) <= expected * 1.01
                assert not inside or math.isclose(float(offset.norm()), expected, rel_tol=0.01)
                # The boundary is nearer than the gap allows: the point could be drawn no closer.
                margin = float(answer(torch.where(torch.arange(3).view(-1, 1, 1, 1) == i, b, x))[i, 0])
                slope = float(before_last[i]) * (1 if attack.norm == "l2" else float(weight.abs().sum()))
                assert 0 > margin >= -slope * attack.closeness(d) - 1e-6
            if phase == STEP:
                normal = attack.normal(before)[i]
                assert math.isclose(float(normal.norm()), 1, rel_tol=1e-5)
                direction = normal if attack.norm == "l2" else normal.sign()
                step = float(distance) / math.sqrt(t) / 2 ** misses[i]
                assert torch.allclose(points[i], (b + step * direction).clamp(0, 1), atol=1e-6)
                misses[i] = misses[i] + 1 if logits[i].argmax() == 0 else 0
                steps += 1
            else:
                misses[i] = 0
    assert steps >= 6, "too few steps to see"


def check_kept(attack, victim, x, y, budget=100):
    """The point kept is a hit, no hit was nearer, its distance never grows; b is a hit too."""
    answer = one_by_one(victim)
    least = torch.full((len(x),), math.inf)
    for _, points, logits, after in drive(attack, answer, x, y, budget=budget):
        distance = attack.threat.distance(x, points)
        least = torch.where(logits.argmax(1) != y, least.minimum(distance), least)
        assert torch.equal(after["distance"], least)
        found = least.isfinite()
        assert torch.equal(attack.threat.distance(x, after["nearest"])[found], least[found])
        inside = found & (least <= attack.eps)
        assert torch.equal(paper_behaviour(attack).reports_success(after, found), inside)
        if found.all():
            assert (answer(after["nearest"]).argmax(1) != y).all()
            assert (answer(after["point"]).argmax(1) != y).all()
        best = attack.best(after)
        assert torch.equal(best[inside], after["nearest"][inside])
        assert attack.threat.contains(x, best).all()
    assert found.all()


def check_normal(attack):
    """On a plane, the mean of the signed directions has its exact expectation along the normal, z of at most 4.5."""
    x = grey(12)
    answer, weight = halfspace(x, distance=0.2)
    y = torch.zeros(12, dtype=torch.int64)
    first = [None] * 12
    for before, *_ in drive(attack, answer, x, y, budget=attack.init_probes + 90):
        for i in range(12):
            if before["phase"][i] == STEP and before["iteration"][i] == 1:
                first[i] = first[i] or float((before["signed"][i].double() * weight).sum()) / 0.1
    found = [value for value in first if value is not None]
    assert len(found) >= 10
    d, n = x[0].numel(), attack.init_probes * len(found)
    expected = -math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
    spread = math.sqrt((1 / d - expected**2) / n)
    # The normal of `halfspace` points to the right class, so hits are on the other side.
    assert abs(sum(found) / n - expected) <= 4.5 * spread


def check_plane(attack, factor, budget=900):
    """On a plane, the distance is never less than the exact one, and in the end at most `factor` times that."""
    x = grey(3)
    answer, weight = halfspace(x)
    least = 0.3 if attack.norm == "l2" else 0.3 / float(weight.abs().sum())
    for *_, after in drive(attack, answer, x, torch.zeros(3, dtype=torch.int64), budget=budget):
        assert (after["distance"] >= least * (1 - 1e-5)).all()
    assert (after["distance"] <= factor * least).all(), after["distance"] / least


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_each_query_is_the_references(norm, network, clean):
    attack = HSJA(eps=0.05, norm=norm, init_probes=20, gap=0.01)
    check_reference(attack, one_by_one(network), clean[0][:1], clean[1][:1], 100)


@pytest.mark.parametrize(("norm", "shape"), others_slow([("l2", (3, 4, 4)), ("linf", (1, 3, 3))], 1))
def test_each_query_is_the_references_over_many_iterations(norm, shape):
    x = grey(2, shape)
    attack = HSJA(eps=0.05, norm=norm, init_probes=30, max_probes=50)
    check_reference(attack, halfspace(x, 0.1)[0], x, torch.zeros(2, dtype=torch.int64), 500)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_targeted_attack_is_the_references_from_its_start(norm, network, clean):
    x, y = clean[0][:2], clean[1][:2]
    target, starting_points = next_classes(network, x, y)
    attack = HSJA(eps=0.05, norm=norm, init_probes=20, gap=0.01, targeted=True)
    check_reference(attack, one_by_one(network), x, y, 80, target, starting_points)


@pytest.mark.slow
def test_phases_take_the_queries_of_the_paper():
    check_counts(HSJA(eps=0.05, norm="linf", init_probes=40, max_probes=60))


@pytest.mark.parametrize(
    ("norm", "size", "queries"), [("l2", 32, 18), ("l2", 224, 26), ("linf", 32, 24), ("linf", 224, 35)]
)
def test_drawing_near_takes_as_many_queries_as_the_authors_gap_says(norm, size, queries):
    assert math.ceil(-math.log2(HSJA(eps=0.05, norm=norm).closeness(3 * size * size))) == queries


def test_probes_grow_with_the_root_of_the_iteration_up_to_the_most():
    wanted = HSJA(eps=0.05, init_probes=100).probes_wanted(torch.tensor([1, 2, 3, 4, 9, 9999, 10_000, 10_001, 10**6]))
    assert wanted.tolist() == [100, 141, 173, 200, 300, 9999, 10_000, 10_000, 10_000]


@pytest.mark.slow
@pytest.mark.parametrize("norm", others_slow(["l2", "linf"], 0))
def test_probes_steps_and_boundary_points_measure_as_in_the_paper(norm):
    check_geometry(HSJA(eps=0.05, norm=norm, init_probes=40))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_nearest_hit_is_kept(norm, network, clean):
    check_kept(HSJA(eps=0.3 if norm == "linf" else 3.0, norm=norm, init_probes=20), network, clean[0][:2], clean[1][:2])


def test_the_estimate_of_a_planes_normal_has_its_expectation():
    check_normal(HSJA(eps=0.05, norm="l2"))


@pytest.mark.slow
def test_a_planes_exact_distance_is_approached_and_never_beaten():
    check_plane(HSJA(eps=0.05, norm="l2"), 1.1)


def test_an_iteration_whose_steps_all_miss_leaves_the_point():
    x, y = torch.full((1, 3, 4, 4), 0.5), torch.zeros(1, dtype=torch.int64)
    tick = iter(range(1000))

    def answer(points):
        # The first point hits, and half of the first probes.
        number = next(tick)
        hit = number == 0 or (number > 20 and number % 2 == 0 and not stepping)
        return torch.tensor([[0.0, 1.0]] if hit else [[1.0, 0.0]])

    stepping, point, taken = False, None, 0
    for before, _, _, after in drive(HSJA(eps=0.05, init_probes=10, gap=0.5), answer, x, y, budget=60):
        stepping = bool(after["phase"] == STEP)
        if before["phase"] == STEP:
            point = before["point"] if point is None else point
            taken += 1
            if after["phase"] == GRADIENT:
                assert taken == 20
                assert torch.equal(after["point"], point)
                assert int(after["iteration"]) == 2
                assert not after["signed"].any()
                assert not after["total"].any()
                assert int(after["probes"]) == int(after["answers"]) == 0
                return
    raise AssertionError("the steps never ended")


def test_if_all_probes_agree_the_normal_is_their_mean():
    attack = HSJA(eps=0.05, norm="l2")
    total = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    state = {"x": total, "total": total, "signed": -total}
    state |= {"answers": torch.tensor([-7]), "probes": torch.tensor([7])}
    assert torch.allclose(attack.normal(state), -total / total.norm(), atol=1e-6)
    state |= {"answers": torch.tensor([1])}
    assert torch.allclose(attack.normal(state), -total / total.norm(), atol=1e-6)
    state |= {"signed": total * 0.5, "answers": torch.tensor([5])}
    assert torch.allclose(attack.normal(state), -total / total.norm(), atol=1e-6)


def test_exact_bills_stop_anywhere_and_the_papers_between_iterations():
    x, y = grey(4), torch.zeros(4, dtype=torch.int64)

    class Plane(torch.nn.Module):
        def forward(self, points):
            margin = points.flatten(1).sum(1) - 22
            return torch.stack([margin, torch.zeros_like(margin)], 1)

    def attack():
        return HSJA(eps=0.001, init_probes=30)

    exact = Run(Plane(), attack(), x, y, budget=70)
    assert exact.column("attack").tolist() == [70] * 4
    paper = Run(Plane(), attack(), x, y, budget=70, query_counting="paper")
    assert paper.column("billed").tolist() == [70] * 4
    seed = torch.tensor([rng.image_seed(0, f"test/{i:04d}") for i in range(4)])
    ended = [0] * 4
    for q, (*_, after) in enumerate(drive(attack(), Plane(), x, y, budget=200, seed=seed), 1):
        between = (after["phase"] == GRADIENT) & (after["probes"] == 0)
        ended = [end or (q if q >= 70 and now else 0) for end, now in zip(ended, between.tolist(), strict=True)]
    assert paper.column("attack").tolist() == ended
    assert min(ended) > 70


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"init_probes": 0}, "attack.init_probes must be at least 1, got 0"),
        ({"max_probes": 0}, "attack.max_probes must be at least 1, got 0"),
        ({"gap": 0.0}, "attack.gap must lie strictly between 0 and 1, got 0.0"),
        ({"gap": 1.0}, "attack.gap must lie strictly between 0 and 1, got 1.0"),
        ({"norm": "l1"}, "attack.norm of HSJA must be linf or l2, got l1"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, text):
    with pytest.raises(UserError) as caught:
        HSJA(eps=0.05, **options)
    assert str(caught.value) == text

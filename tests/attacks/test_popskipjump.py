"""What is special to PopSkipJump."""

import math

import pytest
import torch
from attack_checks import caught
from harness import drive, next_classes, noisy, one_by_one, others_slow
from reference.popskipjump import popskipjump
from test_hsja import GRADIENT, PHASES, PROJECT, STEP, Draws, grey, halfspace

from rfdlight.attacks import HSJA, PopSkipJump
from rfdlight.attacks.paper import paper_behaviour


def random_labels(answer, width, flips, seed=0):
    """Labels of a victim of two classes: logistic noise of a width on its margin, then a share of wrong labels."""
    generator = torch.Generator().manual_seed(seed)

    def labels(points):
        margin = answer(points)[:, 0]
        hit = torch.rand(len(points), generator=generator) < torch.sigmoid(-margin / width)
        hit = hit ^ (torch.rand(len(points), generator=generator) < flips)
        return torch.nn.functional.one_hot(hit.long(), 2).float()

    return labels


def towards_the_plane(attack, rows, width, flips, budget, distance=0.3):
    """The ticks of a targeted l2 attack on a random plane, from starts beyond it along its normal; and that normal."""
    x = grey(rows)
    answer, weight = halfspace(x, distance)
    answer = random_labels(answer, width, flips) if width else answer
    aims = {"target": torch.ones(rows, dtype=torch.int64), "starting_points": (x - 0.6 * weight).float()}
    return drive(attack, answer, x, torch.zeros(rows, dtype=torch.int64), budget=budget, **aims), -weight


def check_reference(attack, answer, x, y, budget, target=None, starting_points=None):
    """Query by query, points, purposes and numbers of probes are the reference's; in the end the point kept too."""
    seed = torch.arange(len(x)) + 100
    ticks = list(drive(attack, answer, x, y, budget=budget, target=target, starting_points=starting_points))
    for i in range(len(x)):
        told = iter([logits[i] for _, _, logits, _ in ticks])
        shares = [
            float(after["shares"][i, before["answered"][i]])
            for before, *_, after in ticks
            if before["phase"][i] == PROJECT
        ]
        history, kept = popskipjump(
            lambda _, told=told: next(told), x[i], int(y[i]), attack.norm, budget,
            Draws(int(seed[i]), tuple(x.shape[1:]), attack.norm), attack.init_probes, attack.gap, shares,
            None if target is None else int(target[i]), None if starting_points is None else starting_points[i],
        )  # fmt: skip
        assert len(history) == len(ticks)
        for q, (entry, (before, points, _, _)) in enumerate(zip(history, ticks, strict=True)):
            assert PHASES[int(before["phase"][i])] == entry["for"], f"image {i}, query {q}"
            assert int(before["iteration"][i]) == entry["t"], f"image {i}, query {q}"
            assert torch.allclose(points[i], entry["point"], rtol=0, atol=1e-5), f"image {i}, query {q}"
            assert entry["wanted"] in (None, int(attack.wanted(before)[i])), f"image {i}, query {q}"
        assert torch.allclose(ticks[-1][3]["nearest"][i], kept, rtol=0, atol=1e-5)
        assert history[-1]["t"] >= 2, "too few queries to see an iteration after the first"


def check_centre(attack, width=0.03, flips=0.05, rows=100):
    """On a sigmoid with a known centre, a bisection ends within its width of it, and v is the sigmoid's."""
    ticks, direction = towards_the_plane(attack, rows, width, flips, budget=1000)
    x, errors, blurs, queries = grey(rows), {}, {}, []
    for tick, (*_, after) in zip(range(70), ticks, strict=False):
        for i in (after["phase"] == GRADIENT).nonzero()[:, 0].tolist():
            if i not in errors:
                errors[i] = float(((after["point"][i] - x[i]).double() * direction).sum()) - 0.3
                blurs[i] = math.log(float(after["blur"][i]) + 1e-3)
                queries.append(tick)
    assert len(errors) == rows, "a bisection took more than 63 queries"
    found = torch.tensor(list(errors.values())) / width
    assert abs(float(found.mean())) <= 4.5 * float(found.std()) / math.sqrt(rows) + 0.1
    assert float(found.square().mean().sqrt()) <= 1
    v = math.exp(sorted(blurs.values())[rows // 2]) / (1.702 * math.sqrt(x[0].numel()) * width)
    assert 0.5 <= v <= 2
    assert 15 <= sum(queries) / rows <= 45


def first_cosines(attack, rows, width=0.02, flips=0.0):
    """The cosines of the normals of the first iteration with the plane's, and the mean number of their probes."""
    ticks, direction = towards_the_plane(attack, rows, width, flips, budget=100_000)
    cosines, probes = {}, []
    for *_, after in ticks:
        for i in (after["phase"] == STEP).nonzero()[:, 0].tolist():
            if i not in cosines:
                cosines[i] = float((attack.normal(after)[i].double() * direction).sum())
                probes.append(int(after["probes"][i]))
        if len(cosines) == rows:
            return torch.tensor(list(cosines.values())), sum(probes) / rows
    raise AssertionError("a row never stepped")


def check_normal(attack, rows=40):
    """On a plane with noise, the normal's cosine is HopSkipJump's without noise, which noise lowers."""
    options = {"eps": 0.05, "norm": "l2", "init_probes": attack.init_probes, "gap": 0.001, "targeted": True}
    plain, _ = first_cosines(HSJA(**options), rows, width=0)
    hurt, _ = first_cosines(HSJA(**options), rows, flips=0.1)
    found, probes = first_cosines(attack, rows, flips=0.1)
    error = float((found.var() / rows + plain.var() / rows).sqrt())
    assert float(plain.mean() - hurt.mean()) >= 6 * error, "noise does not hurt HopSkipJump: the check sees nothing"
    assert abs(float(found.mean() - plain.mean())) <= 4.5 * error, (found.mean(), plain.mean())
    assert 1.5 * attack.init_probes <= probes <= 8 * attack.init_probes


def small(**options):
    return {"eps": 0.05, "norm": "l2", "init_probes": 4, "gap": 0.01} | options


@pytest.mark.parametrize(
    ("norm", "deviation"), others_slow([("l2", 0.3), ("linf", 0.0), ("l2", 0.0), ("linf", 0.3)], 0)
)
def test_each_query_is_the_references(norm, deviation, network, clean):
    answer = noisy(one_by_one(network), deviation)
    check_reference(PopSkipJump(**small(norm=norm)), answer, clean[0][:1], clean[1][:1], 170)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_targeted_attack_is_the_references_from_its_start(norm, network, clean):
    x, y = clean[0][:2], clean[1][:2]
    target, starting_points = next_classes(network, x, y)
    attack = PopSkipJump(**small(norm=norm, targeted=True))
    check_reference(attack, noisy(one_by_one(network), 0.2), x, y, 170, target, starting_points)


def test_a_noisy_bisection_finds_the_centre_and_the_width_of_a_sigmoid():
    check_centre(PopSkipJump(eps=0.05, norm="l2", targeted=True))


@pytest.mark.slow
def test_the_posterior_mean_converges_to_the_centre():
    class Endless(PopSkipJump):
        def _end(self, state, rows, centre, width, flips):
            errors.append(float(((centre - 0.5) * 0.6).square().mean().sqrt()))

    errors = []
    ticks, _ = towards_the_plane(Endless(eps=0.05, norm="l2", targeted=True), 60, 0.03, 0.05, budget=64)
    for _ in ticks:
        pass
    assert errors[10] > errors[30] > errors[60]
    assert errors[60] <= 0.6 * 0.03


def test_without_noise_a_bisection_is_as_narrow_as_hopskipjumps_and_probes_are_as_many():
    attack = PopSkipJump(eps=0.05, norm="l2", targeted=True)
    ticks, direction = towards_the_plane(attack, 20, 0, 0, budget=1000)
    x, ended = grey(20), torch.zeros(20, dtype=torch.bool)
    gap = 0.6 * attack.closeness(x[0].numel())
    for query, (*_, after) in enumerate(ticks, 1):
        now = (after["phase"] == GRADIENT) & (after["probes"] == 0) & ~ended
        depth = ((after["point"] - x).double() * direction).flatten(1).sum(1)
        assert ((depth - 0.3).abs() <= 3 * gap)[now].all()
        assert (attack.wanted(after) == attack.init_probes)[now].all()
        assert (attack.probe_size(after) == 0.1)[now].all()
        ended |= now
        if ended.all():
            break
        assert query < 40


@pytest.mark.slow
def test_a_noisy_normal_is_as_good_as_hopskipjumps_without_noise():
    check_normal(PopSkipJump(**small(targeted=True, init_probes=40, max_probes=400)))


@pytest.mark.parametrize("ratio", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("flips", [0.0, 0.2])
def test_the_number_of_probes_keeps_the_expected_signal(ratio, flips):
    """n grows as the square of E|u| / E[u (2 p(u) - 1)], here by quadrature, for the normal share u of a probe."""
    attack, x = PopSkipJump(eps=0.05, norm="l2", init_probes=1000, max_probes=10**6), torch.full((1, 3, 8, 8), 0.5)
    size = 0.1
    blur = size / ratio
    point = x + 0.1 * torch.nn.functional.normalize(torch.ones_like(x).flatten(1)).view(x.shape)
    state = attack.init(x, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    state |= {"x": x, "point": point, "budget": torch.tensor([10**9]), "iteration": torch.tensor([1])}
    state |= {"blur": torch.tensor([blur]).double(), "flips": torch.tensor([flips]).double()}
    assert float(attack.probe_size(state)) == pytest.approx(size)
    u = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-(u**2) / 2)
    signal = (density * u * (1 - 2 * flips) * torch.tanh(1.702 * ratio * u / 2)).sum()
    expected = float((density * u.abs()).sum() / signal) ** 2
    assert int(attack.wanted(state)) / 1000 == pytest.approx(expected, rel=0.12)


def test_probes_are_at_most_a_fifth_of_the_budget_or_hopskipjumps():
    attack = PopSkipJump(eps=0.05, norm="l2", init_probes=100, max_probes=5000)
    x = torch.full((4, 3, 8, 8), 0.5)
    zeros = torch.zeros(4, dtype=torch.int64)
    state = attack.init(x, zeros, zeros) | {"x": x, "point": x + 0.01, "iteration": zeros + 4}
    state |= {"blur": zeros + 1e3, "budget": torch.tensor([100, 2000, 10_000, 10**6])}
    assert attack.wanted(state).tolist() == [200, 400, 2000, 5000]
    assert attack.configured(eot=4).wanted(state).tolist() == [200, 200, 500, 5000]


def test_the_edge_of_the_ball_on_the_segment_with_the_nearest_centre_is_submitted(network, clean):
    attack = PopSkipJump(**small(eps=0.2))
    x, y = clean[0][:3], clean[1][:3]
    nearest = torch.full((3,), math.inf)
    for before, _, _, after in drive(attack, noisy(one_by_one(network), 0.2), x, y, budget=150):
        ended = (before["phase"] == PROJECT) & (after["phase"] == GRADIENT)
        reached = attack.threat.distance(x, after["point"])
        nearer = ended & (reached < nearest)
        nearest = torch.where(nearer, reached, nearest)
        assert torch.equal(after["nearest"][nearer], after["far"][nearer])
        assert torch.equal(after["distance"], nearest)
        edge = attack.threat.project(x, after["nearest"])
        assert torch.allclose(attack.best(after), edge, atol=1e-6)
    assert nearest.isfinite().all()


def test_the_papers_query_counting_reports_no_success(network, clean):
    attack = PopSkipJump(**small())
    *_, (*_, after) = drive(attack, one_by_one(network), clean[0][:2], clean[1][:2], budget=60)
    assert not paper_behaviour(attack).reports_success(after, torch.ones(2, dtype=torch.bool)).any()


class ReadsTheOpposite(PopSkipJump):
    """Reading: the bisection takes hits for misses."""

    def _after_answer(self, state, points, adversarial):
        super()._after_answer(state, points, ~adversarial)


class ForgetsTheFlips(PopSkipJump):
    """Budget: as many probes as if no label was flipped, and as if probes saw no noise."""

    def wanted(self, state):
        return self.probes_wanted(state["iteration"])


class ProbesAsHSJA(PopSkipJump):
    """Size: probes as short as HopSkipJump's."""

    def probe_size(self, state):
        return HSJA.probe_size(self, state)


class EndsEarly(PopSkipJump):
    """Schedule: a bisection ends at the third query."""

    def _end(self, state, rows, centre, width, flips):
        super()._end(state, rows | (state["answered"] == 4), centre, width, flips)


def on_network(attack, network, clean):
    check_reference(attack, noisy(one_by_one(network), 0.3), clean[0][:2], clean[1][:2], 170)


CHECKS = {
    "centre": lambda mutant, *_: check_centre(mutant(eps=0.05, norm="l2", targeted=True)),
    "normal": lambda mutant, *_: check_normal(mutant(**small(targeted=True, init_probes=40, max_probes=400))),
    "reference": lambda mutant, *victim: on_network(mutant(**small()), *victim),
}
CAUGHT = [
    (ReadsTheOpposite, ["reference", "centre"]),
    (ForgetsTheFlips, ["normal"]),
    (ProbesAsHSJA, ["reference"]),
    (EndsEarly, ["centre", "reference"]),
]


@pytest.mark.parametrize(("mutant", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, check, network, clean):
    with pytest.raises(AssertionError):
        CHECKS[check](mutant, network, clean)

"""What is special to Sign-OPT; at the end, mutants that its checks must catch."""

import pytest
import torch
from attack_checks import caught, check_feasible
from harness import Constant, Linear, Run, counted, drive, images, next_classes, one_by_one
from reference.signopt import signopt

from rfdlight.attacks import OPT, SignOPT
from rfdlight.attacks.paper import paper_behaviour
from rfdlight.core import rng
from rfdlight.core.norms import norm as norm_of
from rfdlight.engine import criterion_named
from rfdlight.errors import UserError

PURPOSES = ("start", "check", "sample", "try", "shrink", "grow", "bisect")
START, CHECK, SAMPLE, TRY, SHRINK, GROW, BISECT = range(7)
SMALL = {"starting_points": 3, "samples": 12, "eps": 0.05}


def check_reference(attack, victim, x, y, steps, target=None, begin=None, reference=signopt, **published):
    """Query by query, points are the same bits as the reference's, for the same purpose at the same radius."""
    answer = one_by_one(victim)
    histories = []
    for i in range(len(x)):
        key = torch.tensor([100 + i])

        def draws(stream, number, shape, key=key):
            return rng.normal(key, stream, torch.tensor([number]), tuple(shape))[0]

        def hit(label, i=i):
            return label != int(y[i]) if target is None else label == int(target[i])

        options = {
            "hit": hit,
            "starting_points": 1 if attack.targeted else attack.starting_points,
            "samples": attack.samples,
            **published,
        }
        options["start"] = None if begin is None else begin[i]
        history, _ = reference(lambda p: answer(p[None])[0], x[i], steps, draws, **options)
        histories.append(history)
        assert {"start", "sample", "try", "bisect"} <= {entry["purpose"] for entry in history}
    ticks = drive(attack, answer, x, y, budget=steps, target=target, starting_points=begin)
    for q, (entries, (before, points, *_)) in enumerate(zip(zip(*histories, strict=True), ticks, strict=True)):
        for i, entry in enumerate(entries):
            assert entry["purpose"] == PURPOSES[int(before["phase"][i])], f"image {i}, query {q}"
            assert entry["radius"] == float(before["radius"][i]), f"image {i}, query {q}"
            assert torch.equal(points[i], entry["point"]), f"image {i}, query {q}"


def check_steps(attack, victim, x, y, steps):
    """Directions have norm 1, radii never rise and are wrong where they are, and a gradient takes `samples`."""
    answer = one_by_one(victim)
    estimates = 0
    for before, _, _, after in drive(attack, answer, x, y, budget=steps):
        size = norm_of(after["direction"], "l2")
        assert torch.allclose(size, torch.ones_like(size), atol=1e-5)
        assert (after["radius"] <= before["radius"]).all()
        fell = (after["radius"] < before["radius"]).nonzero()[:, 0]
        if len(fell):
            reach = after["radius"].float().view(-1, 1, 1, 1)
            found = (x + reach * attack._theta(after)).clamp(0, 1)[fell]
            assert (answer(found).argmax(1) != y[fell]).all()
        ends = (before["phase"] == SAMPLE) & (after["phase"] == TRY)
        assert (after["sampled"][ends] == attack.samples).all()
        estimates += int(ends.sum())
    assert estimates >= len(x), "no line search: the check saw nothing"


def linear_victim():
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(1, 1, 4, 4, generator=generator)
    x = images(3, (1, 4, 4), seed=6) * 0.2 + 0.4
    return Linear(weight, float(0.8 - (x * weight).flatten(1).sum(1).min())), x


def check_linear(attack, most=1.03):
    """On a linear victim of 16 values, 500 queries come near its boundary, in l2 to 3 %, and never nearer than it."""
    victim, x = linear_victim()
    y = torch.zeros(len(x), dtype=torch.int64)
    margin, weight = victim(x)[:, 0], victim.weight.double()
    dual = weight.norm()
    for *_, after in drive(attack, victim, x, y, budget=500):
        assert (after["radius"] * dual >= margin * (1 - 1e-5)).all()
    ratio = after["radius"] * dual / margin
    assert ratio.max() <= most, ratio


def check_own_columns(attack):
    """The columns that a fresh row starts with: alpha 0.2, beta 0.01, no radius."""
    state = attack.init(*[images(1), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)])
    assert float(state["alpha"]) == 0.2
    assert float(state["beta"]) == 0.01
    assert float(state["radius"]) == float("inf")


def test_each_query_is_the_references(network, clean):
    check_reference(SignOPT(norm="l2", **SMALL), network, clean[0][:1], clean[1][:1], 220)


@pytest.mark.slow
def test_each_query_is_the_references_past_the_smallest_samples():
    victim, x = linear_victim()
    attack = SignOPT(norm="l2", starting_points=2, samples=3, eps=0.05)
    check_reference(attack, lambda p: victim(p).float(), x[:1], torch.zeros(1, dtype=torch.int64), 900)


def test_each_targeted_query_is_the_references(network, clean):
    x, y = clean[0][:2], clean[1][:2]
    target, begin = next_classes(network, x, y)
    attack = SignOPT(norm="l2", targeted=True, **SMALL)
    check_reference(attack, network, x, y, 120, target, begin)


@pytest.mark.slow
def test_directions_radii_and_samples_obey_the_paper(network, clean):
    check_steps(SignOPT(norm="linf", **SMALL), network, clean[0][:2], clean[1][:2], 200)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_each_query_under_the_papers_counting_is_the_published_codes(network, clean, norm):
    attack = counted(SignOPT(norm=norm, **SMALL), "paper")
    check_reference(attack, network, clean[0][:1], clean[1][:1], 300, published=norm)


@pytest.mark.parametrize("query_counting", ["exact", "paper"])
def test_the_papers_criterion_reports_a_success_where_the_nearest_point_is_in_the_ball(network, clean, query_counting):
    options = {"criterion": criterion_named("paper"), "query_counting": query_counting}
    attack, (x, y) = SignOPT(norm="linf", starting_points=3, samples=8, eps=0.25), (each[:8] for each in clean)
    run = Run(network, attack, x, y, budget=200, **options)
    found = [record.success_query is not None for record in run.records if record.verdict == "adversarial"]
    assert len(found) >= 2
    assert all(found)


@pytest.mark.parametrize("attack", [SignOPT, OPT])
def test_queries_are_the_same_in_both_norms(network, clean, attack):
    x, y = clean[0][:2], clean[1][:2]
    runs = [drive(attack(norm=norm, **SMALL), network, x, y, budget=60) for norm in ("l2", "linf")]
    assert all(torch.equal(one[1], other[1]) for one, other in zip(*runs, strict=True))


@pytest.mark.slow
def test_a_linear_victims_distance_is_approached_and_never_beaten():
    check_linear(SignOPT(norm="l2", starting_points=5, samples=60, eps=0.05), 1.1)


def test_a_fresh_row_has_the_first_step_and_sample_size():
    check_own_columns(SignOPT(eps=0.05))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_points_stay_in_the_ball(network, clean, norm):
    check_feasible(SignOPT(norm=norm, starting_points=2, samples=8, eps=0.02), network, clean[0][:2], clean[1][:2], 80)


@pytest.mark.parametrize("query_counting", ["exact", "paper"])
def test_a_line_search_and_its_loops_end_on_a_victim_that_is_always_wrong(query_counting):
    # Every answer is wrong: radii shrink 100 times, then bisection goes on to 0.
    x, y = images(1, (1, 4, 4)), torch.zeros(1, dtype=torch.int64)
    attack = counted(SignOPT(norm="l2", starting_points=1, samples=3, eps=0.05), query_counting)
    phases = []
    for before, *_ in drive(attack, lambda p: torch.tensor([[0.0, 1.0]]).expand(len(p), 2), x, y, budget=600):
        phases.append(int(before["phase"]))
    assert phases.count(TRY) >= 4
    longest = max(len(run) for run in "".join("s" if p == SHRINK else " " for p in phases).split())
    assert longest == 100


def test_the_paper_grows_lost_radii_and_leaves_one_answer_per_search_unbilled(network, clean):
    x, y = clean[0][:3], clean[1][:3]
    attack = counted(SignOPT(norm="l2", **SMALL), "paper")
    unbilled = torch.zeros(3, dtype=torch.int64)
    seen = set()
    lowest = 1.0
    for q, (before, points, logits, after) in enumerate(drive(attack, one_by_one(network), x, y, budget=200), 1):
        wrong = logits.argmax(1) != y
        unbilled += (before["phase"] == TRY) | ((before["phase"] == CHECK) & wrong)
        seen |= set(before["phase"].tolist())
        assert torch.equal(paper_behaviour(attack).billed(after, torch.full_like(y, q)), q - unbilled)
        lost = (before["phase"] == TRY) & ~wrong
        assert (after["phase"][lost] == GROW).all()
        lowest = min(lowest, float(points.min()))
    assert {CHECK, GROW} <= seen
    assert lowest < 0


def test_accounting_bills_the_budget_exactly_or_more_than_the_paper_notices(network, clean):
    x, y = clean[0][:2], clean[1][:2]
    made = [
        Run(
            network,
            SignOPT(norm="l2", starting_points=2, samples=8, eps=1e-6),
            x,
            y,
            budget=90,
            query_counting=a,
            criterion=rule,
        )
        for a, rule in (("exact", criterion_named("never")), ("paper", criterion_named("never")))
    ]
    assert made[0].column("attack").tolist() == [90] * 2
    assert (made[1].column("attack") > 90).all()
    assert made[1].column("billed").tolist() == [90] * 2


def test_the_paper_ends_once_its_budget_is_exceeded():
    zero = torch.zeros(3, dtype=torch.int64)
    state = {
        "y": zero,
        "phase": zero + START,
        "sampled": zero,
        "budget": zero + 90,
        "unbilled": torch.tensor([0, 0, 2]),
    }
    behaviour = paper_behaviour(counted(SignOPT(eps=0.05), "paper"))
    assert behaviour.ended(state, torch.tensor([90, 91, 92])).tolist() == [False, True, False]


def test_starts_go_on_until_one_is_wrong():
    x, y = images(2, (3, 4, 4)), torch.zeros(2, dtype=torch.int64)
    run = Run(Constant(), SignOPT(starting_points=2, eps=0.05), x, y, budget=30)
    assert run.column("attack").tolist() == [30] * 2


def test_a_budget_that_the_first_gradient_exceeds_is_cautioned():
    assert SignOPT(eps=0.05).budget_warning(1000) is None
    text = "20 starting points and 50 samples leave nothing of 60 queries; lower attack.samples"
    assert SignOPT(eps=0.05).budget_warning(60) == text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"starting_points": 0}, "attack.starting_points must be at least 1, got 0"),
        ({"samples": -1}, "attack.samples must be at least 1, got -1"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        SignOPT(**options)


class Climbs(SignOPT):
    """Sign: along the gradient."""

    def _stepped(self, state, alpha):
        return super()._stepped(state, -alpha)


class LeavesTheBall(SignOPT):
    """Size: submits the nearest point where it lies."""

    def best(self, state):
        reach = torch.where(state["radius"].isfinite(), state["radius"], 1.0)
        return self.point(state["x"], self._theta(state), reach)


class SamplesOnceMore(SignOPT):
    """Budget: one query more per gradient."""

    def tell(self, state, points, answer):
        last = (state["phase"] == SAMPLE) & (state["drawn"] % (self.samples + 1) == self.samples - 1)
        state["sampled"] = state["sampled"] - last.long()
        super().tell(state, points, answer)


class ReadsTheOpposite(SignOPT):
    """Reading: takes right for wrong."""

    def is_adversarial(self, state, labels):
        return ~super().is_adversarial(state, labels)


class BisectsTooShort(SignOPT):
    """Size: keeps a radius a percent below the one that was wrong."""

    def tell(self, state, points, answer):
        radius = state["radius"].clone()
        super().tell(state, points, answer)
        state["radius"] = torch.where(state["radius"] < radius, 0.99 * state["radius"], radius)


CHECKS = {"check_reference": 150, "check_steps": 150, "check_feasible": 60}
"""The checks that take a victim, and the budgets."""

CAUGHT = [
    (LeavesTheBall, ["check_feasible"]),
    (SamplesOnceMore, ["check_reference"]),
    (ReadsTheOpposite, ["check_reference", "check_steps"]),
    (BisectsTooShort, ["check_reference", "check_steps"]),
    (Climbs, ["check_reference", "check_linear"]),
]


@pytest.mark.parametrize(("mutant", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, check, network, clean):
    attack = mutant(norm="l2", starting_points=3, samples=12, eps=0.02)
    victim = (network, clean[0][:1], clean[1][:1], CHECKS[check]) if check in CHECKS else ()
    with pytest.raises(AssertionError):
        globals()[check](attack, *victim)

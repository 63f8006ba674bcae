"""What is special to AdaptiveSquare."""

import math

import pytest
import torch
from attack_checks import caught
from harness import CoinFlip, Linear, Mapped, Run, drive, noisy, one_by_one, start
from reference.adaptive_square import Flat, Round, adaptive_square
from reference.draws import SquareDraws, SquareL2Draws

from rfdlight.attacks import AdaptiveSquare, Square
from rfdlight.core.tensors import per_row
from rfdlight.engine import criterion_named
from rfdlight.errors import UserError

EPS = {"linf": 0.05, "l2": 1.0}
NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])


def check_reference(attack, victim, x, y, budget=80, deviation=1.0):
    """Query by query, the point, and the kept point, its mean loss and the step after it are the reference's."""
    seed = torch.tensor([3 + 2**40 * i for i in range(len(x))])
    target = (y + 1) % 5 if attack.targeted else torch.full_like(y, -1)
    answer = noisy(one_by_one(victim), deviation)
    ticks = list(drive(attack, answer, x, y, budget=budget, seed=seed, target=target))
    accepted = races = 0
    for i in range(len(x)):
        told = iter([logits[i] for _, _, logits, _ in ticks])
        own, form = (SquareL2Draws(int(seed[i]), 3), Round), (SquareDraws(int(seed[i]), 3, x.shape[3]), Flat)
        draws, points = own if attack.norm == "l2" else form
        history = adaptive_square(
            lambda _, told=told: next(told), int(y[i]), int(target[i]), points(x[i], attack.eps, attack.p, draws),
            attack.schedule_len, attack.schedule_clock, attack.level, attack.most, attack.loss, budget,
        )  # fmt: skip
        assert len(history) == len(ticks)
        for q, (entry, (before, asked, _, after)) in enumerate(zip(history, ticks, strict=True)):
            where = f"image {i}, query {q}"
            assert torch.allclose(asked[i], entry["point"], rtol=0, atol=1e-5), where
            if "kept" in entry:  # the last query may leave a race open
                assert torch.allclose(attack.best(after)[i], entry["kept"], rtol=0, atol=1e-5), where
                assert float(after["loss"][i, 0]) == pytest.approx(entry["loss"], abs=1e-4), where
                assert int(after["step"][i]) == entry["step"], where
            accepted += q > 0 and not torch.equal(attack.best(before)[i], attack.best(after)[i])
            races += int(before["refreshing"][i] & (before["step"][i] > 0))
    assert accepted >= 2
    assert deviation == 0 or races >= 2, "no kept point was asked again: the check saw nothing"


def check_deterministic(attack, victim, x, y, budget=80):
    """Where answers do not vary, the queries are those of Square with the first one twice."""
    plain = Square(eps=attack.eps, norm=attack.norm, p=attack.p, schedule_clock="iterations")
    length = {"eps": attack.eps, "norm": attack.norm, "p": attack.p, "schedule_clock": "iterations"}
    twice = type(attack)(**length)
    own = [points for _, points, _, _ in drive(twice, one_by_one(victim), x, y, budget=budget)]
    other = [points for _, points, _, _ in drive(plain, one_by_one(victim), x, y, budget=budget)]
    assert torch.equal(own[0], own[1])
    for q in range(1, budget - 1):
        assert torch.equal(own[q + 1], other[q]), f"query {q}"


def check_luck(attack, rows=200, budget=150):
    """Where all points are alike behind noise of deviation 1, the loss of the kept one stays near the truth.

    Square's is the least of 150 answers, 2.6 below the truth on average.
    """
    x, y = torch.full((rows, 1, 6, 6), 0.5), torch.zeros(rows, dtype=torch.int64)
    victim = noisy(lambda points: torch.zeros(len(points), 2) + torch.tensor([5.0, 0.0]), 1.0)
    *_, (_, _, _, after) = drive(attack, victim, x, y, budget=budget)
    assert float((after["loss"][:, 0] - 5).mean()) >= -1.3


def check_noise(attack, rows=100, budget=150):
    """The variance of the answers is estimated without bias: |z| passes 5 in 1 of a million runs.

    Races end by the answers, so a bias of 5 % is allowed at a level of 1; lower levels have more.
    """
    x, y = torch.full((rows, 1, 6, 6), 0.5), torch.zeros(rows, dtype=torch.int64)
    victim = noisy(lambda points: torch.zeros(len(points), 2), 2.0)
    *_, (_, _, _, after) = drive(attack, victim, x, y, budget=budget)
    freedom = float(after["freedom"].sum())
    variance = float(after["squares"].sum()) / freedom
    assert abs(variance / 4 - 1) <= 0.05 + 5 * math.sqrt(2 / freedom), variance


def check_scale(attack, victim, x, y):
    """Logits 8 times as large, which is exact in floating point, change no query."""
    ends = []
    for factor in (1, 8):
        scaled = noisy(one_by_one(Mapped(victim, lambda z, factor=factor: factor * z)), 0.1 * factor)
        ends.append([points for _, points, _, _ in drive(attack, scaled, x, y, budget=50)])
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


def check_switch(attack):
    """Where an answer of the kept point ends the race, the proposal is kept if it is better."""
    x, y = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, dtype=torch.int64)
    state, _ = start(attack, x, y, torch.arange(1), 1000)
    state["step"] += 1
    state["loss"], state["answers"] = torch.tensor([[1.0, 0.5]]), torch.ones(1, 2)
    state["squares"], state["freedom"] = torch.tensor([1000.0]), torch.tensor([1000.0])
    points = attack.ask(state)
    proposal = attack._point(x, state["proposal"]).clone()
    assert torch.equal(points, attack.best(state))
    attack.tell(state, points, torch.tensor([[50.0, 0.0]]))
    assert torch.equal(attack.best(state), proposal)
    assert not torch.equal(points, proposal)
    assert state["loss"].tolist() == [[0.5, 0.0]]


CASES = [
    {},
    {"loss": "cross_entropy", "level": 0.5},
    {"targeted": True, "most": 6},
    {"schedule_len": 100},
    {"norm": "l2", "eps": 1.0},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_each_query_is_the_references(network, clean, options):
    attack = AdaptiveSquare(**{"eps": 0.05, "p": 0.2, "level": 1.0, "schedule_clock": "iterations", **options})
    check_reference(attack, network, clean[0][:3], clean[1][:3])


def test_the_schedule_counts_queries_up_to_a_proposals_first(network, clean):
    attack = AdaptiveSquare(eps=0.05, p=0.3, schedule_len=60)
    check_reference(attack, network, clean[0][:1], clean[1][:1])


@NORMS
def test_on_a_deterministic_victim_it_is_square_with_one_query_more(network, clean, norm):
    attack = AdaptiveSquare(eps=EPS[norm], norm=norm, p=0.2)
    check_deterministic(attack, network, clean[0][:3], clean[1][:3])


def test_no_lucky_answer_lasts():
    check_luck(AdaptiveSquare(eps=0.05, level=1.0))


def test_an_answer_of_the_kept_point_may_end_the_race():
    check_switch(AdaptiveSquare(eps=0.05))


def test_the_noise_is_measured():
    check_noise(AdaptiveSquare(eps=0.05, level=1.0))


def test_the_scale_of_the_logits_changes_nothing(network, clean):
    check_scale(AdaptiveSquare(eps=0.05), network, clean[0][:3], clean[1][:3])


@pytest.mark.slow
def test_behind_noise_it_finds_more_than_square():
    generator = torch.Generator().manual_seed(4)
    x, y = torch.full((20, 1, 8, 8), 0.5), torch.zeros(20, dtype=torch.int64)
    victim = Linear(torch.randn(1, 1, 8, 8, generator=generator) * 10, 0.0)
    shares = []
    for form in (Square, AdaptiveSquare):
        attack = form(eps=0.05, p=0.2, schedule_len=2000)
        *_, (_, _, _, after) = drive(attack, noisy(victim, 2.0), x, y, budget=300)
        shares.append(float((victim(attack.best(after))[:, 0] / victim.least_margin(x, 0.05)).mean()))
    assert shares[1] >= shares[0] + 0.05, shares


@pytest.mark.slow
@NORMS
def test_a_victim_that_predicts_at_random_is_finished_within_the_budget(norm):
    x, y = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(4, dtype=torch.int64)
    options = {"budget": 25, "deterministic": False, "criterion": criterion_named("sequential", 40)}
    for counting in ("exact", "paper"):
        run = Run(CoinFlip(), AdaptiveSquare(eps=EPS[norm], norm=norm), x, y, query_counting=counting, **options)
        assert all(record.billed <= 25 for record in run.records)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"level": 0.0}, "attack.level must be a positive number, got 0.0"),
        ({"most": 0}, "attack.most must be at least 1, got 0"),
        ({"p": 0.0}, r"attack\.p must lie in \(0, 1\], got 0\.0"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        AdaptiveSquare(**options)


def test_the_kept_point_is_not_refreshed_by_an_option():
    with pytest.raises(UserError, match=r"^unknown argument of "):
        AdaptiveSquare(refresh="every")


class Climbs(AdaptiveSquare):
    """Sign: keeps what raises the loss."""

    def objective(self, state, logits):
        return -super().objective(state, logits)


class DecidesAtOnce(AdaptiveSquare):
    """Race: one answer decides."""

    def tell(self, state, points, answer):
        most, self.most = self.most, 1
        super().tell(state, points, answer)
        self.most = most


class RacesForEver(AdaptiveSquare):
    """Race: goes on beyond the cap."""

    def tell(self, state, points, answer):
        most, self.most = self.most, 10**6
        super().tell(state, points, answer)
        self.most = most


class ForgetsTheKept(AdaptiveSquare):
    """Race: the kept point is never asked again."""

    def tell(self, state, points, answer):
        super().tell(state, points, answer)
        state["refreshing"] = state["step"] == 0


class KeepsTheLeast(AdaptiveSquare):
    """Mean: the loss is the lowest answer."""

    def tell(self, state, points, answer):
        loss, before, step = self.objective(state, answer), state["loss"].clone(), state["step"].clone()
        asked = state["refreshing"]
        super().tell(state, points, answer)
        again = asked & (step == state["step"]) & (step > 0)
        state["loss"][:, 0] = torch.where(again, torch.minimum(before[:, 0], loss), state["loss"][:, 0])


class ForgetsTheDegreesOfFreedom(AdaptiveSquare):
    """Noise: squares are divided by the number of answers."""

    def tell(self, state, points, answer):
        first = (state["answers"] * torch.stack([state["refreshing"], ~state["refreshing"]], 1)).sum(1) == 0
        super().tell(state, points, answer)
        state["freedom"] = state["freedom"] + first


class AsksTheStartOnce(AdaptiveSquare):
    """Budget: races before the noise is known."""

    def tell(self, state, points, answer):
        super().tell(state, points, answer)
        state["step"] = state["step"].clamp_min(1)
        state["refreshing"] = state["refreshing"] & (state["answers"][:, 1] > 0)


class ProposesAnew(AdaptiveSquare):
    """Race: squares shrink during a race, so that another proposal is asked."""

    def ask(self, state):
        answers = state["answers"].clone()
        state["answers"] = answers * torch.tensor([1, 0])
        points = super().ask(state)
        state["answers"] = answers
        return points


class KeepsWhatWasAsked(AdaptiveSquare):
    """Submission: where an answer of the kept point ends the race, the kept point stays."""

    def tell(self, state, points, answer):
        kept = state[self._kept]
        state["proposal"] = torch.where(per_row(state["refreshing"], kept), kept, state["proposal"])
        super().tell(state, points, answer)


class HasAShortSchedule(AdaptiveSquare):
    """Schedule: the budget, behind noise too."""

    def ask(self, state):
        length = self.schedule_len
        self.schedule_len = length or int(state["budget"][0])
        points = super().ask(state)
        self.schedule_len = length
        return points


CAUGHT = [
    (Climbs, {}, [check_reference, check_deterministic]),
    (DecidesAtOnce, {}, [check_reference, check_luck]),
    (RacesForEver, {"most": 2}, [check_reference]),
    (ForgetsTheKept, {}, [check_reference]),
    (KeepsTheLeast, {}, [check_reference]),
    (ForgetsTheDegreesOfFreedom, {}, [check_reference, check_noise]),
    (AsksTheStartOnce, {}, [check_reference, check_deterministic]),
    (ProposesAnew, {"p": 1.0, "schedule_len": 1000}, [check_reference]),
    (KeepsWhatWasAsked, {}, [check_switch]),
    (HasAShortSchedule, {"p": 0.5}, [check_reference]),
]
VICTIM = {check_reference, check_deterministic, check_scale}


@pytest.mark.parametrize(("mutant", "options", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, options, check, network, clean):
    attack = mutant(**{"eps": 0.05, "p": 0.2, "level": 1.0, **options})
    with pytest.raises(AssertionError):
        check(attack, *((network, clean[0][:3], clean[1][:3]) if check in VICTIM else ()))

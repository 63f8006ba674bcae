"""What Square's options change, and what the paper's query counting bills."""

import math

import pytest
import torch
from attack_checks import caught, check_square_reference
from harness import CoinFlip, Constant, Linear, Mapped, Run, counted, drive, images, one_by_one, others_slow
from msgspec.structs import asdict

from rfdlight.attacks import Square
from rfdlight.attacks.paper import BEHAVIOURS, PaperSquare, paper_behaviour
from rfdlight.core.norms import norm
from rfdlight.engine import criterion_named
from rfdlight.errors import UserError

EPS = {"linf": 0.05, "l2": 1.0}
NORMS = pytest.mark.parametrize("ball", ["linf", "l2"])


def trajectory(attack, victim, x, y, budget):
    """Per image, its proposals in order: the point, and whether it was kept; and how many queries were refreshes."""
    proposals = [[] for _ in x]
    refreshes = torch.zeros(len(x), dtype=torch.int64)
    for before, points, _, after in drive(attack, one_by_one(victim), x, y, budget=budget):
        refreshes += before["refreshing"]
        for i in range(len(x)):
            if before["refreshing"][i]:
                assert torch.equal(points[i], attack.best(before)[i])
                assert before["step"][i] == after["step"][i]
            else:
                proposals[i].append((points[i], bool(after["loss"][i] < before["loss"][i])))
    return proposals, refreshes


@NORMS
@pytest.mark.parametrize("refresh", others_slow(["every", "accept"], 0))
def test_refreshing_changes_no_proposal_of_a_deterministic_victim(network, clean, ball, refresh):
    x, y = clean[0][:3], clean[1][:3]
    own = {"eps": EPS[ball], "norm": ball, "p": 0.1, "schedule_len": 60, "schedule_clock": "iterations"}
    plain, none = trajectory(Square(**own), network, x, y, 80)
    assert not none.any()
    refreshed, refreshes = trajectory(Square(refresh=refresh, **own), network, x, y, 80)
    for alone, other, asked in zip(plain, refreshed, refreshes.tolist(), strict=True):
        assert len(other) == 80 - asked
        for (point, kept), (same, again) in zip(alone, other, strict=False):
            assert torch.equal(point, same)
            assert kept == again
        taken = sum(kept for _, kept in other)
        # One refresh follows each step, or each step that was kept; the last may still be to come.
        assert asked in ((40,) if refresh == "every" else (taken, taken - 1))


def test_a_refresh_replaces_the_loss_by_the_new_answer():
    # The kept point's margin is told anew each time: the record follows it, upwards too.
    x, y = torch.full((2, 3, 8, 8), 0.5), torch.zeros(2, dtype=torch.int64)
    margins = iter([1.0, 3.0, 2.0, 2.5, 2.4])
    attack = Square(eps=0.1, refresh="every")
    seen = []
    for before, _, _, after in drive(
        attack, lambda _: torch.tensor([[next(margins), 0.0]]).expand(2, 2), x, y, budget=5
    ):
        seen.append((bool(before["refreshing"][0]), float(after["loss"][0])))
    # The start, its refresh, a kept step, its refresh, and a step that is better than the refreshed record.
    expected = [(False, 1.0), (True, 3.0), (False, 2.0), (True, 2.5), (False, 2.4)]
    assert seen == [(asked, pytest.approx(value)) for asked, value in expected]


@pytest.mark.parametrize(("refresh", "share"), [("never", 0.0), ("every", 0.5)])
def test_only_a_refreshed_record_of_a_noisy_victim_rises(refresh, share):
    x, y = images(4, (3, 8, 8)), torch.zeros(4, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    rises = 0
    for before, _, _, after in drive(
        Square(eps=0.1, refresh=refresh), lambda p: torch.randn(len(p), 2, generator=generator), x, y, budget=80
    ):
        rises += int((after["loss"] > before["loss"]).sum())
    # After a refresh the record is a fresh draw: at least every fourth rises.
    assert rises == 0 if not share else rises >= 40


def times(attack, repeats, query_counting, x, y, queries):
    """The schedule's time at each query after the first."""
    attack = counted(attack, query_counting).configured(eot=repeats)
    clock, seen = attack._time, []

    def spy(state):
        seen.append(clock(state).tolist())
        return clock(state)

    attack._time = spy
    for _ in drive(attack, lambda p: torch.ones(len(p), 2), x, y, budget=queries):
        pass
    return torch.tensor(seen)[1:]


@pytest.mark.parametrize(
    ("options", "repeats", "query_counting", "expected"),
    [
        ({}, 1, "exact", [0, 1, 2, 3, 4, 5]),
        ({}, 5, "exact", [0, 5, 10, 15, 20, 25]),
        ({}, 5, "paper", [0, 1, 2, 3, 4, 5]),
        ({"schedule_clock": "iterations"}, 5, "exact", [0, 1, 2, 3, 4, 5]),
        ({"schedule_clock": "evaluations"}, 5, "paper", [0, 5, 10, 15, 20, 25]),
        # Every second query is a refresh, whose time is not used.
        ({"refresh": "every", "schedule_clock": "iterations"}, 1, "exact", [0, 0, 1, 1, 2, 2]),
        ({"refresh": "every"}, 1, "exact", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_the_schedules_clock_counts_what_it_is_told_to(options, repeats, query_counting, expected):
    x, y = images(2, (3, 8, 8)), torch.zeros(2, dtype=torch.int64)
    seen = times(Square(eps=0.1, **options), repeats, query_counting, x, y, 7)
    assert seen[:, 0].tolist() == expected
    assert torch.equal(seen[:, 0], seen[:, 1])


def test_with_five_evaluations_a_query_the_papers_clock_ends_at_a_fifth_of_the_schedule():
    # 10,000 evaluations of 5: the last proposal is number 1,999, where the first levels alone are over.
    attack = Square(p=0.3, schedule_len=10000, eps=0.1)
    side = {
        clock: attack.side(torch.tensor([last]), torch.tensor([10000]), 224, 224).item()
        for clock, last in (("iterations", 1998), ("evaluations", 5 * 1998))
    }
    assert side == {"iterations": 22, "evaluations": 5}


def targeted_ticks(attack, victim, x, y, budget=80):
    target = (y + 1) % 5
    for before, points, logits, after in drive(attack, one_by_one(victim), x, y, budget=budget, target=target):
        yield before, points, logits, after, target


def check_objective(attack, victim, x, y, value):
    """The record is the least value of the objective so far, in every query and image, and it falls."""
    best = torch.full((len(x),), math.inf)
    first = None
    for _, _, logits, after, target in targeted_ticks(attack, victim, x, y):
        best = best.minimum(value(logits, target, y))
        first = best if first is None else first
        assert torch.allclose(after["loss"], best, atol=1e-6)
    assert (best < first).all()


def target_margin(logits, target, y):
    rest = logits.scatter(1, target[:, None], -math.inf).amax(1)
    return rest - logits.gather(1, target[:, None])[:, 0]


def target_entropy(logits, target, y):
    return torch.nn.functional.cross_entropy(logits, target, reduction="none")


def label_entropy(logits, target, y):
    return -torch.nn.functional.cross_entropy(logits, y, reduction="none")


OBJECTIVES = {"margin": target_margin, "cross_entropy": target_entropy}


@NORMS
@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_the_targeted_form_lowers_the_targets_objective(network, clean, ball, loss):
    attack = Square(p=0.1, loss=loss, targeted=True, eps=EPS[ball], norm=ball)
    check_objective(attack, network, clean[0][:3], clean[1][:3], OBJECTIVES[loss])


def test_untargeted_cross_entropy_is_that_of_the_label(network, clean):
    attack = Square(p=0.1, loss="cross_entropy", eps=0.05)
    best = torch.full((3,), math.inf)
    for *_, logits, after in drive(attack, one_by_one(network), clean[0][:3], clean[1][:3], budget=40):
        best = best.minimum(label_entropy(logits, None, clean[1][:3]))
        assert torch.allclose(after["loss"], best, atol=1e-6)


def test_a_targeted_image_is_claimed_only_where_the_target_is_reached(network, clean):
    attack = Square(p=0.1, targeted=True, eps=0.3)
    claimed = 0
    x, y = clean[0][:4], clean[1][:4]
    state = {"x": x, "y": y, "seed": torch.arange(4), "target": (y + 1) % 5, "budget": torch.full((4,), 100)}
    state |= attack.init(x, y, state["seed"])
    for _ in range(100):
        before = state["loss"].clone()
        points = attack.ask(state)
        logits = one_by_one(network)(points)
        attack.tell(state, points, logits)
        hit = logits.argmax(1) == state["target"]
        assert torch.equal(paper_behaviour(attack).reports_success(state, hit), hit & (state["loss"] < before))
        claimed += int(paper_behaviour(attack).reports_success(state, hit).sum())
    assert claimed


def check_paper_bill(attack, budget, repeats):
    """Evaluations are M floor(n / M), in l2 M more; all but the first M are billed."""
    x, y = images(3, (3, 8, 8)), torch.zeros(3, dtype=torch.int64)
    options = {
        "query_counting": "paper",
        "eot": repeats,
        "batch_size": 4 * repeats,
        "criterion": criterion_named("never"),
    }
    iterations = budget // repeats - (attack.norm == "linf")
    for record in Run(Constant(), attack, x, y, budget=budget, **options).records:
        assert record.attack == (1 + iterations) * repeats
        assert record.success_check == 0
        assert record.billed == iterations * repeats


@NORMS
@pytest.mark.parametrize(("budget", "repeats"), [(40, 1), (1, 1), (40, 5), (43, 5)])
def test_paper_accounting_bills_by_iterations(ball, budget, repeats):
    check_paper_bill(Square(eps=EPS[ball], norm=ball), budget, repeats)


@NORMS
@pytest.mark.parametrize("repeats", [1, 5])
def test_exact_accounting_bills_every_evaluation(ball, repeats):
    x, y = images(3, (3, 8, 8)), torch.zeros(3, dtype=torch.int64)
    run = Run(Constant(), Square(eps=EPS[ball], norm=ball), x, y, budget=43, eot=repeats, batch_size=4 * repeats)
    assert [record.billed for record in run.records] == [43 // repeats * repeats] * 3


@NORMS
@pytest.mark.parametrize("refresh", ["every", "accept"])
def test_refreshes_are_billed_and_points_stay_in_the_ball_of_a_random_victim(ball, refresh):
    torch.manual_seed(0)
    attack = Square(eps=EPS[ball], norm=ball, refresh=refresh)
    x, y = images(4, (3, 8, 8)), torch.zeros(4, dtype=torch.int64)
    run = Run(
        CoinFlip(),
        attack,
        x,
        y,
        budget=20,
        batch_size=40,
        deterministic=False,
        criterion=criterion_named("never", final_evaluations=40),
    )
    for record in run.records:
        assert record.billed == (20 if record.attack else 0)
        assert asdict(record)[ball] <= attack.eps * (1 + 1e-4)
    *_, (*_, after) = drive(attack, CoinFlip(), x, y, budget=20)
    assert (norm(attack.best(after) - x, ball) <= attack.eps * (1 + 1e-4)).all()


class BillsTheStart(Square):
    """Budget: the paper's bill has the start."""


class BilledStart(PaperSquare):
    def billed(self, state, evaluated):
        return evaluated


class StopsEarly(Square):
    """Budget: l2 makes as many iterations as linf."""


class EarlyStop(PaperSquare):
    def ended(self, state, evaluated):
        return state["step"] >= state["budget"] // self.attack.eot


BEHAVIOURS.update({BillsTheStart: BilledStart, StopsEarly: EarlyStop})


class AimsAtTheLabel(Square):
    """Reading: lowers the label's margin, whatever the target."""

    def objective(self, state, logits):
        return super().objective({**state, "target": torch.full_like(state["y"], -1)}, logits)


class RunsFromTheTarget(Square):
    """Sign: the target's margin is lowered."""

    def objective(self, state, logits):
        return -super().objective(state, logits)


@pytest.mark.parametrize(("mutant", "ball"), [(BillsTheStart, "linf"), (StopsEarly, "l2")])
def test_a_mutant_in_billing_is_caught(mutant, ball):
    with pytest.raises(AssertionError):
        check_paper_bill(mutant(eps=EPS[ball], norm=ball), 40, 5)


@pytest.mark.parametrize("mutant", [AimsAtTheLabel, RunsFromTheTarget])
def test_a_mutant_in_the_targeted_objective_is_caught(mutant, network, clean):
    attack = mutant(p=0.1, targeted=True, eps=0.05)
    with pytest.raises(AssertionError):
        check_objective(attack, network, clean[0][:3], clean[1][:3], target_margin)


PERIOD = 1.0


def forward(margin):
    """A sawtooth that rises with the margin within each period."""
    return margin.remainder(PERIOD)


def backward(margin):
    """The margins of AAA: within each period they fall where the model's rise."""
    return 2 * PERIOD * (margin / PERIOD).floor() + PERIOD - margin


def periods_crossed(attack, sawtooth):
    """How many periods the model's margin has fallen by on 2 images; steps are below half a period."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(3, 8, 8, generator=generator).sign()
    x, y = images(2, (3, 8, 8)) * 0.5 + 0.25, torch.zeros(2, dtype=torch.int64)
    model = Linear(weight, 0.0)
    model.offset = 12 - model(x)[:, 0]
    answers = Mapped(model, lambda logits: logits * 0 + sawtooth(logits[:, :1]) * torch.tensor([1.0, 0.0]))
    margins = [model(attack.best(after))[:, 0] for *_, after in drive(attack, answers, x, y, budget=300)]
    return (margins[0] / PERIOD).floor() - (margins[-1] / PERIOD).floor()


def check_follows_the_sawtooth(attack):
    sawtooth = forward if attack.follow == "both" else backward
    assert (periods_crossed(attack, sawtooth) >= 3).all()


TEETH = {"p": 0.01, "eps": 0.05, "jump": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("follow", "sawtooth"), [("down", forward), ("down", backward), ("up", forward), ("up", backward)]
)
def test_one_direction_stalls_behind_a_sawtooth(follow, sawtooth):
    assert not (periods_crossed(Square(follow=follow, **TEETH), sawtooth) > 0).any()


@pytest.mark.slow
@pytest.mark.parametrize("follow", ["both", "sawtooth"])
def test_the_model_s_margin_falls_period_by_period_where_jumps_are_followed_the_other_way(follow):
    check_follows_the_sawtooth(Square(follow=follow, **TEETH))


def check_follow_reference(attack, victim, x, y):
    check_square_reference(attack, victim, x, y, 120)


@pytest.mark.parametrize("follow", ["up", "both", "sawtooth"])
def test_each_query_is_the_references_whatever_is_followed(network, clean, follow):
    check_follow_reference(Square(p=0.3, eps=0.05, follow=follow, jump=0.0005), network, clean[0][:1], clean[1][:1])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"follow": "sideways"}, "unknown attack.follow 'sideways'; .*"),
        ({"jump": 0.0}, "attack.jump must be a positive number, got 0.0"),
    ],
)
def test_what_is_followed_is_checked_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        Square(**options)


class TakesNoJump(Square):
    """Sign: jumps are followed like small changes."""

    def _follows(self, kept, loss):
        jump, self.jump = self.jump, math.inf
        follows = super()._follows(kept, loss)
        self.jump = jump
        return follows


class TakesOnlyJumps(Square):
    """Sign: small changes are followed like jumps."""

    def _follows(self, kept, loss):
        jump, self.jump = self.jump, 0.0
        follows = super()._follows(kept, loss)
        self.jump = jump
        return follows


class DropsTheStart(Square):
    """Reading: the start is not kept."""

    def _follows(self, kept, loss):
        return super()._follows(kept, loss) & ~kept.isposinf()


FOLLOWING = [
    (mutant, {"follow": follow}, [check_follow_reference, check_follows_the_sawtooth])
    for mutant in (TakesNoJump, TakesOnlyJumps)
    for follow in ("both", "sawtooth")
] + [(DropsTheStart, {"follow": "up"}, [check_follow_reference])]


@pytest.mark.parametrize(("mutant", "options", "check"), caught(FOLLOWING))
def test_a_mutant_in_what_is_followed_is_caught(mutant, options, check, network, clean):
    victim = (network, clean[0][:2], clean[1][:2]) if check is check_follow_reference else ()
    attack = mutant(**{**TEETH, "jump": 0.0005 if victim else 0.5, "p": 0.3 if victim else 0.01, **options})
    with pytest.raises(AssertionError):
        check(attack, *victim)

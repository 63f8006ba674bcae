"""What is special to Square in l2."""

import math

import pytest
import torch
from attack_checks import caught, check_feasible
from harness import centred_network, drive, images, one_by_one
from reference.draws import SquareL2Draws
from reference.square_l2 import bump as reference_bump
from reference.square_l2 import square_l2 as reference

from rfdlight.attacks import Square, square_l2
from rfdlight.core.losses import margin
from rfdlight.core.norms import norm


def check_reference(attack, victim, x, y, budget=120):
    """Query by query, points and losses are the reference's to 2e-6 and 2e-5, and the same points are kept."""
    answer = one_by_one(victim)
    seed = torch.tensor([3 + 2**40 * i for i in range(len(x))])
    ticks = list(drive(attack, answer, x, y, budget=budget, seed=seed))
    kept = 0
    for i in range(len(x)):
        draws = SquareL2Draws(int(seed[i]), x.shape[1])
        n = attack.schedule_len or budget
        model = lambda p: answer(p[None])[0]  # noqa: E731 - one expression for the reference's argument
        history = reference(model, x[i], int(y[i]), attack.eps, attack.p, n, budget, draws)
        loss = math.inf
        for q, (entry, (before, points, _, after)) in enumerate(zip(history, ticks, strict=True)):
            where = f"image {i}, query {q}"
            assert torch.allclose(points[i], entry["point"], rtol=0, atol=2e-6), where
            assert float(after["loss"][i]) == pytest.approx(entry["loss"], abs=2e-5), where
            assert bool(after["loss"][i] < before["loss"][i]) == (entry["loss"] < loss), where
            kept += entry["loss"] < loss
            loss = entry["loss"]
    assert kept >= 3 * len(x), "hardly a step was kept: the check saw nothing"


def check_start(attack):
    """At grey images of odd and even sizes the start has norm eps, on a grid of bumps of equal norm."""
    for height in (8, 16, 28, 32):
        x, y = torch.full((4, 3, height, height), 0.5), torch.zeros(4, dtype=torch.int64)
        delta = (attack.init(x, y, torch.arange(4))["point"] - x).double()
        assert torch.allclose(norm(delta, "l2"), torch.tensor(attack.eps).double(), rtol=1e-4)
        side = height // 5
        cells = min(5, height // side), height // side
        offset = [(height - count * side) // 2 for count in cells]
        inside = delta[:, :, offset[0] : offset[0] + cells[0] * side, offset[1] : offset[1] + cells[1] * side]
        assert float(inside.norm()) == pytest.approx(float(delta.norm()), rel=1e-5)
        tiles = inside.unfold(2, side, side).unfold(3, side, side)
        lengths = tiles.flatten(4).norm(dim=4)
        even = attack.eps / math.sqrt(3 * cells[0] * cells[1])
        assert torch.allclose(lengths, torch.full_like(lengths, even), rtol=1e-4)


def check_steps(attack, victim, x, y, budget=80):
    """A candidate has norm eps where nothing is clipped, and keeps its direction outside two windows."""
    x = 0.4 + 0.2 * x  # no pixel reaches 0 or 1
    moved = 0
    for q, (before, points, _, _) in enumerate(drive(attack, one_by_one(victim), x, y, budget=budget)):
        delta, kept = (points - x).double(), (before["point"] - x).double()
        assert torch.allclose(norm(delta, "l2"), torch.tensor(attack.eps).double(), rtol=1e-4), q
        if q == 0:
            continue
        side = int(attack.side(torch.tensor([q - 1]), before["budget"][:1], *x.shape[2:]))
        assert side % 2 == 1
        assert side >= 3
        for new, old in zip(delta, kept, strict=True):
            present = (new.abs() > 1e-6) & (old.abs() > 1e-6)
            scale = (new[present] / old[present]).median()
            changed = ((new - scale * old).abs() > 2e-6).any(0)
            moved += int(changed.any())
            assert not changed.any() or covered_by_two(changed, side), f"query {q}"
    assert moved >= 0.9 * (budget - 1) * len(x)


def covered_by_two(changed, side):
    """Say whether two squares cover all that changed: the topmost row of one begins the first."""
    places = changed.nonzero()
    top = int(places[:, 0].min())
    for left in range(changed.shape[1]):
        rest = [(i, j) for i, j in places.tolist() if not (top <= i < top + side and left <= j < left + side)]
        rows, columns = [i for i, _ in rest], [j for _, j in rest]
        if not rest or (max(rows) - min(rows) < side and max(columns) - min(columns) < side):
            return True
    return False


def check_kept(attack, victim, x, y, budget=100):
    """The margin never rises, is that of the point submitted, and has fallen at the end."""
    answer = one_by_one(victim)
    first = None
    for before, _, logits, after in drive(attack, answer, x, y, budget=budget):
        assert (after["loss"] <= before["loss"]).all()
        assert (after["loss"] <= margin(logits, y)).all()
        first = after["loss"] if first is None else first
    assert torch.equal(margin(answer(attack.best(after)), y), after["loss"])
    assert (after["loss"] < first).all()


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 6, 9, 12, 17, 44])
def test_the_bump_has_unit_norm_and_one_sign_per_half(side):
    bump = square_l2.bump(side)
    assert float(bump.norm()) == pytest.approx(1.0, abs=1e-12)
    assert (bump[: side // 2] > 0).all()
    assert (bump[side // 2 :] < 0).all()
    assert torch.allclose(bump, torch.tensor(reference_bump(side)).double(), atol=1e-7)


def test_the_bump_of_three_is_the_one_computed_by_hand():
    # One row [1/4, 5/4, 1/4] above; below, [1/4, 1/4, 1/4], [1/4, 5/4, 1/4]; each half has the norm sqrt(1/2).
    upper = torch.tensor([[1.0, 5.0, 1.0]]) / math.sqrt(27)
    lower = torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0]]) / math.sqrt(30)
    expected = torch.cat([upper, -lower]).double() / math.sqrt(2)
    assert torch.allclose(square_l2.bump(3), expected, atol=1e-7)


@pytest.mark.parametrize(("p", "schedule_len"), [(0.1, None), (0.3, 60)])
def test_each_query_is_the_references(p, schedule_len):
    attack = Square(p=p, schedule_len=schedule_len, eps=1.0, norm="l2")
    # For the small network, some candidates are as good as the point that was kept, but for rounding.
    victim, x = centred_network(deep=True), images(1)
    check_reference(attack, victim, x, victim(x).argmax(1))


def test_the_start_is_a_grid_of_bumps():
    check_start(Square(eps=0.5, norm="l2"))


@pytest.mark.slow
def test_a_candidate_keeps_its_norm_and_its_direction_outside_two_windows(network, clean):
    check_steps(Square(p=0.1, eps=0.5, norm="l2"), network, clean[0][:2], clean[1][:2])


@pytest.mark.slow
def test_points_stay_in_the_ball(network, clean):
    check_feasible(Square(p=0.1, eps=1.0, norm="l2"), network, clean[0][:3], clean[1][:3])


@pytest.mark.slow
def test_the_loss_never_rises_and_is_that_of_the_kept_point(network, clean):
    check_kept(Square(p=0.1, eps=1.0, norm="l2"), network, clean[0][:3], clean[1][:3])


def test_sides_are_odd_and_at_least_three_and_follow_the_schedule():
    # 32 x 32 at p = 0.1: 10, 7, 5, 4, 3, 2, ... rounded up to odd numbers.
    t = torch.tensor([0, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001, 20000])
    attack = Square(p=0.1, schedule_len=10000, eps=1.0, norm="l2")
    assert attack.side(t, t, 32, 32).tolist() == [11, 7, 5, 5, 3, 3, 3, 3, 3, 3, 3]
    for height in range(2, 40):
        sides = attack.side(t, t, height, height)
        assert (sides % 2 == 1).all()
        assert (sides <= max(height - 1, 1)).all()
        assert (sides >= min(3, height - 1 - (height % 2))).all()


@pytest.mark.parametrize("shape", [(3, 9, 9), (1, 3, 3), (1, 8, 8)])
def test_images_of_any_size_get_finite_points_of_the_full_norm(shape):
    attack = Square(p=0.1, eps=0.2, norm="l2")
    x, y = images(3, shape) * 0.2 + 0.4, torch.zeros(3, dtype=torch.int64)
    answer = lambda points: torch.stack([-points.flatten(1).sum(1), torch.zeros(3)], 1)  # noqa: E731 - rewards change
    for _, points, _, _ in drive(attack, answer, x, y, budget=60):
        assert points.isfinite().all()
        assert torch.allclose(norm(points - x, "l2"), torch.tensor(0.2), rtol=1e-4)


def test_a_perturbation_that_clipping_has_removed_stays_finite():
    # Black and white pixels: about half of each bump is cut off at every step.
    attack = Square(p=0.3, eps=0.1, norm="l2")
    x, y = (images(3, (1, 6, 6)) > 0.5).float(), torch.zeros(3, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for *_, after in drive(attack, lambda p: torch.randn(3, 2, generator=generator), x, y, budget=200):
        assert after["point"].isfinite().all()
    kept = x.clone()
    seed, step = torch.arange(3), torch.ones(3, dtype=torch.int64)
    again = square_l2.propose(x, kept, seed, step, torch.full((3,), 3), 3, 0.1)
    assert again.isfinite().all()


class Climbs(Square):
    """Sign: keeps what raises the margin."""

    def objective(self, state, logits):
        return -super().objective(state, logits)


class LeavesTheBall(Square):
    """Size: submits a point of twice the norm."""

    def best(self, state):
        return (state["x"] + 2 * (state["point"] - state["x"])).clamp(0, 1)


class AsksEvenSides(Square):
    """Schedule: sides of linf."""

    def side(self, t, budget, height, width):
        self.norm = "linf"
        side = super().side(t, budget, height, width)
        self.norm = "l2"
        return side.clamp_min(2)


class HalvesEarly(Square):
    """Schedule: every level starts one step too early."""

    def side(self, t, budget, height, width):
        return super().side(t + 1, budget, height, width)


class ReadsTheWrongClass(Square):
    """Reading: the margin of the label's neighbour."""

    def objective(self, state, logits):
        return super().objective(state, logits.roll(1, 1))


class SpillsMass(Square):
    """Size: the candidate is not brought back to norm eps."""

    def ask(self, state):
        points = super().ask(state)
        state["proposal"] = state["x"] + 0.9 * (points - state["x"])
        return state["proposal"]


class StartsUneven(Square):
    """Size: the start's left half is twice as strong."""

    def init(self, x, y, seed):
        columns = super().init(x, y, seed)
        delta = columns["point"] - x
        delta[..., : x.shape[3] // 2] *= 2
        columns["point"] = x + delta * (self.eps / norm(delta, "l2")).view(-1, 1, 1, 1)
        return columns


CAUGHT = [
    (Climbs, ["check_reference", "check_kept"]),
    (LeavesTheBall, ["check_feasible", "check_kept"]),
    (AsksEvenSides, ["check_reference", "check_steps"]),
    (HalvesEarly, ["check_reference"]),
    (ReadsTheWrongClass, ["check_reference", "check_kept"]),
    (SpillsMass, ["check_reference", "check_steps"]),
    (StartsUneven, ["check_reference", "check_start"]),
]


@pytest.mark.parametrize(("mutant", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, check, network, clean):
    attack = mutant(p=0.3, eps=0.5, norm="l2")
    victim = () if check == "check_start" else (network, clean[0][:2], clean[1][:2], 40)
    with pytest.raises(AssertionError):
        globals()[check](attack, *victim)

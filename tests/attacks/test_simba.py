"""What is special to SimBA."""

import pytest
import torch
from attack_checks import caught, check_feasible
from harness import Constant, Linear, Run, drive, images, one_by_one, others_slow
from reference.draws import OrderDraws
from reference.simba import blocks, simba, vector

from rfdlight.attacks import SimBA
from rfdlight.core.rng import permuted
from rfdlight.errors import UserError


def step_of(attack):
    if attack.step is not None:
        return attack.step
    return attack.eps if attack.norm == "linf" else 0.2


def check_reference(attack, victim, x, y, budget, target=None):
    """Query by query, points are the reference's, the same bits for pixels in linf and else to 1e-6."""
    answer = one_by_one(victim)
    seed = torch.tensor([3 + 2**40 * i for i in range(len(x))])
    ticks = list(drive(attack, answer, x, y, budget=budget, seed=seed, target=target))
    tolerance = 0.0 if (attack.norm, attack.basis) == ("linf", "pixel") else 1e-6
    for i in range(len(x)):
        history = simba(
            lambda p: answer(p[None])[0],
            x[i],
            int(y[i]),
            None if target is None else int(target[i]),
            attack.eps,
            attack.norm,
            attack.basis,
            step_of(attack),
            budget,
            OrderDraws(int(seed[i])).order,
        )
        for q, (entry, (_, points, _, after)) in enumerate(zip(history, ticks, strict=True)):
            assert torch.allclose(points[i], entry["point"], rtol=0, atol=tolerance), f"image {i}, query {q}"
            assert float(after["loss"][i]) == pytest.approx(entry["loss"], abs=1e-5), f"image {i}, query {q}"


def check_invariants(attack, victim, x, y, budget):
    """The probability never rises, is that of the point submitted, and a coordinate takes one or two queries."""
    answer = one_by_one(victim)
    asked = torch.zeros(len(x), dtype=torch.int64)
    for q, (before, points, _, after) in enumerate(drive(attack, answer, x, y, budget=budget)):
        assert (after["loss"] <= before["loss"]).all()
        chance = answer(attack.best(after)).double().softmax(1).gather(1, y[:, None])[:, 0]
        assert torch.allclose(chance, after["loss"], rtol=0, atol=1e-9)
        moved = after["visited"] - before["visited"]
        asked = asked + (q > 0)
        assert (asked <= 2).all()
        assert (moved <= asked).all()
        # The first query is the clean image, and no other repeats the kept point.
        same = (points == attack.best(before)).flatten(1).all(1)
        assert same.all() if q == 0 else not same.any()
        asked = torch.where(moved > 0, 0, asked)
    assert (after["visited"] >= (budget - 1) // 2).all()
    assert (after["loss"] < 0.999 * answer(x).double().softmax(1).gather(1, y[:, None])[:, 0]).all()


def check_pixels(attack, victim, x, y, budget):
    """In linf each pixel is moved by the step or not at all; one coordinate at a time, none twice in a pass."""
    seen = [set() for _ in x]
    size = torch.tensor(min(step_of(attack), attack.eps))
    for before, points, _, after in drive(attack, one_by_one(victim), x, y, budget=budget):
        assert torch.isin(after["delta"], torch.stack([-size, 0 * size, size])).all()
        changed = (points != attack.best(before)).flatten(1)
        assert (changed.sum(1) <= 1).all()
        for i in range(len(x)):
            if changed[i].any():
                place = int(changed[i].long().argmax())
                if not before["second"][i]:
                    assert place not in seen[i]
                seen[i].add(place)
    assert all(len(places) >= budget // 3 for places in seen)


def check_frequencies(attack, size=16):
    """A step adds plus or minus the step along the coordinate's vector, to 1e-6, and low frequencies come first."""
    x, y = torch.full((2, 3, size, size), 0.5), torch.zeros(2, dtype=torch.int64)
    length, last = step_of(attack), 0
    corners = [max(block) for block in blocks(size, size, "dct")]
    for q, (before, points, _, _) in enumerate(drive(attack, Constant(), x, y, budget=80)):
        places = [tuple(int(v[i]) for v in attack.coordinate(before)) for i in range(2)]
        for i, place in enumerate(places):
            sign = 0 if q == 0 else 1 if before["second"][i] else -1
            expected = sign * length * torch.tensor(vector((3, size, size), "dct", place)).view(3, size, size)
            assert torch.allclose(points[i] - 0.5, expected, rtol=0, atol=1e-6)
        ring = sum(max(places[0][1:]) >= corner for corner in corners)
        assert ring >= last
        last = ring
    assert last >= 1


@pytest.mark.parametrize(
    ("options", "budget"),
    [
        ({}, 100),
        ({"step": 0.02}, 80),
        ({"basis": "dct", "step": 0.5}, 80),
        ({"norm": "l2", "eps": 0.5}, 80),
        ({"norm": "l2", "eps": 0.6, "basis": "dct"}, 80),
    ],
    ids=["linf", "linf small step", "linf dct", "l2", "l2 dct"],
)
def test_each_query_is_the_references(network, clean, options, budget):
    check_reference(SimBA(**{"eps": 0.05, **options}), network, clean[0][:1], clean[1][:1], budget)


@pytest.mark.parametrize("basis", others_slow(["pixel", "dct"], 1))
def test_each_query_is_the_references_in_the_second_and_third_pass(network, basis):
    # 36 coordinates in a pass, on an image that is not square.
    x, y = images(2, (3, 4, 3)), torch.tensor([0, 1])
    check_reference(SimBA(eps=0.2, basis=basis, step=0.1), network, x, y, 170)


def test_each_query_is_the_references_with_a_target(network, clean):
    x, y = clean[0][:2], clean[1][:2]
    check_reference(SimBA(eps=0.1, targeted=True), network, x, y, 80, target=(y + 2) % 5)


@pytest.mark.slow
@pytest.mark.parametrize("options", others_slow([{}, {"basis": "dct", "step": 0.5}, {"norm": "l2", "eps": 1.0}], 0))
def test_the_probability_never_rises_and_a_coordinate_takes_one_or_two_queries(network, clean, options):
    check_invariants(SimBA(**{"eps": 0.1, **options}), network, clean[0][:2], clean[1][:2], 100)


@pytest.mark.slow
@pytest.mark.parametrize("step", others_slow([None, 0.04, 0.5], 1))
def test_pixels_are_moved_by_the_step_or_not_at_all(network, clean, step):
    check_pixels(SimBA(eps=0.1, step=step), network, clean[0][:2], clean[1][:2], 100)


@pytest.mark.slow
def test_cosine_steps_are_the_inverse_transforms_from_low_to_high_frequencies():
    check_frequencies(SimBA(eps=0.5, basis="dct", step=0.7))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_points_stay_in_the_ball(network, basis, norm):
    x, y = images(2, (3, 4, 4)), torch.tensor([0, 1])
    attack = SimBA(eps=0.3, basis=basis, norm=norm, step=0.5)
    # The first point submitted is the clean image, and so is the next where the first steps fail.
    for _, points, _, after in drive(attack, one_by_one(network), x, y, budget=100):
        assert attack.threat.contains(x, points).all()
        assert attack.threat.contains(x, attack.best(after)).all()
        assert points.min() >= 0
        assert points.max() <= 1
    assert (attack.best(after) != x).flatten(1).any(1).all()


def test_a_linear_victim_is_solved_exactly_in_one_pass():
    # Each pixel is decided by its own weight's sign, or left alone where clipping hides it.
    generator = torch.Generator().manual_seed(5)
    victim = Linear(torch.randn(1, 3, 4, 4, generator=generator), 0.5)
    x, y = images(3, (3, 4, 4)), torch.zeros(3, dtype=torch.int64)
    attack = SimBA(eps=0.05)
    *_, (*_, after) = drive(attack, victim, x, y, budget=97)
    assert (after["visited"] >= 48).all()
    reached, least = victim(attack.best(after))[:, 0], victim.least_margin(x, 0.05)
    assert torch.allclose(reached, least, rtol=0, atol=1e-6)


def test_a_confident_victims_probability_still_falls():
    # In float32 the probability of a margin of 20 is 1, whatever the step does.
    victim = Linear(torch.ones(1, 1, 4, 4), 20.0)
    x, y = torch.zeros(1, 1, 4, 4) + 0.5, torch.zeros(1, dtype=torch.int64)
    *_, (*_, after) = drive(SimBA(eps=0.1), victim, x, y, budget=17)
    assert torch.allclose(after["delta"], torch.full_like(x, -0.1))


def test_signs_that_clipping_hides_are_not_asked():
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4).contiguous()
    y = torch.zeros(2, dtype=torch.int64)
    *_, (*_, after) = drive(SimBA(eps=0.1), Constant(), x, y, budget=17)
    assert after["visited"].tolist() == [16, 16]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 48, 100, 768])
def test_orders_are_permutations(size):
    place = torch.arange(size)
    for seed in (0, 2**62 + 5):
        sent = permuted(torch.full_like(place, seed), 0, torch.full_like(place, 3), place, torch.full_like(place, size))
        assert torch.equal(sent.sort().values, place)
        assert sent.tolist() == OrderDraws(seed).order(3, size)


def test_orders_are_uniform_over_images_and_passes():
    # Where each place of 12 goes, and how far apart two neighbours land: Pearson's statistic with 11 and 10
    # degrees of freedom exceeds 31.3 and 29.6 in 1 of 1000 runs; 13 statistics, so in 1 of 70 at most.
    rows, size = 6000, 12
    seed, number = torch.arange(rows) // 3, torch.arange(rows) % 3
    sizes = torch.full((rows,), size)
    sent = torch.stack([permuted(seed, 0, number, torch.full((rows,), k), sizes) for k in range(size)], 1)
    for k in range(size):
        counts = sent[:, k].bincount(minlength=size).double()
        assert float(((counts - rows / size) ** 2 / (rows / size)).sum()) <= 31.3
    gaps = ((sent[:, 1] - sent[:, 0]) % size).bincount(minlength=size)[1:].double()
    assert float(((gaps - rows / (size - 1)) ** 2 / (rows / (size - 1))).sum()) <= 29.6


@pytest.mark.parametrize(
    ("height", "width", "sides"), [(224, 224, [*range(28, 225, 7)]), (32, 32, [*range(4, 33)]), (8, 8, [*range(1, 9)])]
)
def test_blocks_of_frequencies_are_the_published_ones_and_in_proportion(height, width, sides):
    # Along each pass the largest index of any coordinate first reaches a block's side when it is due.
    place = torch.zeros(3 * height * width, dtype=torch.int64)
    state = {"x": torch.zeros(1, 3, height, width).expand(len(place), -1, -1, -1), "seed": place + 4}
    state["visited"] = torch.arange(len(place))
    channel, row, column = SimBA(basis="dct").coordinate(state)
    code = (channel * height + row) * width + column
    assert torch.equal(code.sort().values, torch.arange(len(code)))
    due = torch.searchsorted(3 * torch.tensor(sides) ** 2, torch.arange(len(code)), right=True)
    largest = torch.maximum(row, column)
    assert (largest < torch.tensor(sides)[due]).all()
    assert (largest >= torch.tensor([0, *sides])[due]).all()


def test_the_cosine_vectors_are_orthonormal():
    attack = SimBA(basis="dct")
    state = {"x": torch.zeros(48, 3, 4, 4)}
    code = torch.arange(48)
    vectors = attack._vector(state, code // 16, code // 4 % 4, code % 4).flatten(1).double()
    assert torch.allclose(vectors @ vectors.T, torch.eye(48, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("budget", [0, 1, 40])
def test_the_paper_does_not_bill_the_first_query(budget):
    x, y = images(4, (3, 4, 4)), torch.zeros(4, dtype=torch.int64)
    for query_counting, attack in (("exact", budget), ("paper", budget + (budget > 0))):
        for record in Run(Constant(), SimBA(eps=0.05), x, y, budget=budget, query_counting=query_counting).records:
            assert (record.attack, record.success_check, record.billed) == (attack, 0, budget)


def test_averaged_queries_are_billed_each_and_the_first_ones_not_by_the_paper():
    x, y = images(4, (3, 4, 4)), torch.zeros(4, dtype=torch.int64)
    for record in Run(Constant(), SimBA(eps=0.05), x, y, budget=40, query_counting="paper", eot=4).records:
        assert (record.attack, record.billed) == (44, 40)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"step": 0.0}, "attack.step must be a positive number, got 0.0"),
        ({"step": float("inf")}, "attack.step must be a positive number, got inf"),
        ({"norm": "l1"}, "attack.norm of SimBA must be linf or l2, got l1"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        SimBA(**options)


class Climbs(SimBA):
    """Sign: keeps what raises the probability."""

    def tell(self, state, points, answer):
        super().tell(state, points, -answer)


class StepsTwice(SimBA):
    """Size: steps of twice the length."""

    def _size(self):
        return 2 * super()._size()


class LeavesTheBall(SimBA):
    """Size: submits twice the perturbation."""

    def best(self, state):
        return (state["x"] + 2 * state["delta"]).clamp(0, 1)


class SkipsTheSecondSign(SimBA):
    """Budget: never asks plus the step."""

    def ask(self, state):
        points = super().ask(state)
        state["last"] = torch.ones_like(state["last"])
        return points


class HighFrequenciesFirst(SimBA):
    """Schedule: from high to low."""

    def coordinate(self, state):
        channel, row, column = super().coordinate(state)
        return channel, state["x"].shape[2] - 1 - row, state["x"].shape[3] - 1 - column


class RepeatsAPlace(SimBA):
    """Schedule: the order is drawn anew at each coordinate."""

    def coordinate(self, state):
        size = state["x"][0].numel()
        return super().coordinate({**state, "visited": state["visited"] * size})


class ReadsTheWrongClass(SimBA):
    """Reading: the probability of the label's neighbour."""

    def tell(self, state, points, answer):
        super().tell(state, points, answer.roll(1, 1))


CAUGHT = [
    (Climbs, {}, [check_reference]),
    (Climbs, {}, [check_invariants]),
    (StepsTwice, {"step": 0.05}, [check_reference]),
    (StepsTwice, {"step": 0.05}, [check_pixels]),
    (StepsTwice, {"basis": "dct", "step": 0.5}, [check_frequencies]),
    (LeavesTheBall, {}, [check_feasible]),
    (LeavesTheBall, {}, [check_invariants]),
    (SkipsTheSecondSign, {}, [check_reference]),
    (HighFrequenciesFirst, {"basis": "dct", "step": 0.5}, [check_frequencies]),
    (RepeatsAPlace, {}, [check_pixels]),
    (ReadsTheWrongClass, {}, [check_invariants]),
    (ReadsTheWrongClass, {}, [check_reference]),
]


@pytest.mark.parametrize(("mutant", "options", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, options, check, network, clean):
    victim = () if check is check_frequencies else (network, clean[0][:2], clean[1][:2], 60)
    with pytest.raises(AssertionError):
        check(mutant(eps=0.2, **options), *victim)

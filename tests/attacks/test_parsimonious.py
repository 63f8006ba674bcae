"""What is special to the Parsimonious attack; at the end, mutants that its checks must catch."""

import pytest
import torch
from attack_checks import caught, linear_victim
from harness import drive, images, one_by_one
from reference.draws import OrderDraws
from reference.parsimonious import parsimonious

from rfdlight.attacks import Parsimonious
from rfdlight.core.losses import margin
from rfdlight.errors import UserError

BASE = Parsimonious.BASE


def check_reference(attack, victim, x, y, budget=220):
    """Query by query, points and what would be submitted are the same bits as the reference's."""
    answer = one_by_one(victim)
    seed = torch.tensor([3 + 2**40 * i for i in range(len(x))])
    target = (y + 1) % 5 if attack.targeted else torch.full_like(y, -1)
    ticks = list(drive(attack, answer, x, y, budget=budget, seed=seed, target=target))
    for i in range(len(x)):
        options = {"eps": attack.eps, "block": attack.block or 1, "loss": attack.loss, "budget": budget}
        order = OrderDraws(int(seed[i])).order
        model = lambda p: answer(p[None])[0]  # noqa: E731
        history = parsimonious(model, x[i], int(y[i]), int(target[i]), **options, order=order)
        for q, (entry, (_, points, _, after)) in enumerate(zip(history, ticks, strict=True)):
            assert torch.equal(points[i], entry["point"]), f"image {i}, query {q}"
            assert torch.equal(attack.best(after)[i], entry["submitted"]), f"image {i}, query {q}"
    assert (ticks[-1][3]["signs"] > 0).flatten(1).any(1).all()


def check_search(attack, victim, x, y, budget=150):
    """Queries are corners of the ball that differ from the kept one in one block; the loss is its, and never rises."""
    answer, eps, gained = one_by_one(victim), attack.eps, 0
    for before, points, _, after in drive(attack, answer, x, y, budget=budget):
        corners = torch.stack([(x - eps).clamp(0, 1), (x + eps).clamp(0, 1)])
        assert ((points - corners).abs().amin(0) <= 1e-6).all()
        searching = before["phase"] != BASE
        changed = (points - attack.best(before)).abs() > eps / 2
        side = (attack.block // 2 ** before["sweep"]).clamp_min(1)
        for row, block, searched in zip(changed, side, searching, strict=True):
            places = row.nonzero()
            assert bool(len(places)) == bool(searched)
            if searched:
                extent = places.amax(0) - places.amin(0) + 1
                assert extent[0] == 1
                assert extent.amax() <= block
                assert len(places) == extent.prod()
        loss = margin(answer(attack.best(after)), y)
        assert torch.allclose(loss, after["loss"], rtol=0, atol=1e-4)
        assert (after["loss"] <= before["loss"] + 1e-4)[searching].all()
        gained += int((after["loss"] < before["loss"] - 1e-4)[searching].sum())
    assert gained >= 2 * len(x), "too few changes: the check saw nothing"


def check_linear(attack):
    """A linear margin is modular: one sweep over 48 pixels finds the best corner, in less than 3 * 48 queries.

    Every pixel is queried once. One with a gain is queried again before it is raised, and once more to be lowered.
    """
    victim, x = linear_victim((3, 4, 4))
    y = torch.zeros(3, dtype=torch.int64)
    for *_, after in drive(attack, lambda p: victim(p).float(), x, y, budget=3 * 48):
        if (after["sweep"] > 0).all():
            break
    assert (after["sweep"] > 0).all()
    assert torch.allclose(margin(victim(attack.best(after)), y), victim.least_margin(x, 0.05), rtol=0, atol=1e-5)


def check_sides(attack, expected=((32, [4, 2, 1, 1]), (224, [16, 8, 4, 2, 1]), (299, [32, 16]), (8, [1, 1]))):
    """Blocks have the authors' sides at first, and are halved after each sweep."""
    attack.block = None
    for pixels, sides in expected:
        state = {"x": torch.zeros(len(sides), 3, pixels, pixels), "sweep": torch.arange(len(sides))}
        side, down, across = attack._blocks(state)
        assert side.tolist() == sides
        assert down.tolist() == across.tolist() == [-(-pixels // side) for side in sides]


@pytest.mark.parametrize(
    "options", [{}, {"block": 2, "loss": "cross_entropy"}, {"block": 4, "targeted": True}], ids=str
)
def test_each_query_is_the_references(network, clean, options):
    check_reference(Parsimonious(eps=0.05, **options), network, clean[0][:1], clean[1][:1])


@pytest.mark.slow
def test_each_query_is_the_references_where_blocks_do_not_divide_the_image(network):
    # 18, 60 and 210 blocks: 18 and 60 fit into one batch, the last batch of 210 has 18.
    x, y = images(1, (3, 7, 10)), torch.tensor([0])
    check_reference(Parsimonious(eps=0.1, block=4), network, x, y, 600)


@pytest.mark.slow
def test_a_query_negates_one_block_and_the_loss_never_rises(network, clean):
    check_search(Parsimonious(eps=0.05, block=4), network, clean[0][:2], clean[1][:2])


def test_a_linear_victim_is_solved_exactly_in_one_sweep():
    check_linear(Parsimonious(eps=0.05))


def test_blocks_have_the_authors_sides():
    check_sides(Parsimonious())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"block": 0}, "attack.block must be at least 1, got 0"),
        ({"block": 6}, "attack.block must be a power of 2, got 6"),
        ({"norm": "l2"}, "attack.norm of Parsimonious must be linf, got l2"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(options, text):
    with pytest.raises(UserError, match=f"^{text}$"):
        Parsimonious(**options)


class Climbs(Parsimonious):
    """Sign: changes what raises the loss."""

    def objective(self, state, logits):
        return -super().objective(state, logits)


class LeavesTheBall(Parsimonious):
    """Size: points at twice eps."""

    def _point(self, x, signs):
        return torch.add(x, signs, alpha=2 * self.eps).clamp(0, 1)


class NeverHalves(Parsimonious):
    """Schedule: blocks keep their side."""

    def _blocks(self, state):
        return super()._blocks({**state, "sweep": torch.zeros_like(state["sweep"])})


class NeverLowers(Parsimonious):
    """Schedule: blocks that were raised stay so."""

    def _begin(self, state, rows, phase):
        super()._begin(state, rows, phase)
        if phase == self.LOWER:
            state["bounds"] = torch.where(rows[:, None], torch.inf, state["bounds"])


class TrustsOldBounds(Parsimonious):
    """Reading: changes the best block by its bound without asking again."""

    def _change(self, state):
        state["fresh"] = state["bounds"].isfinite()
        super()._change(state)


class AlwaysAsksAgain(Parsimonious):
    """Budget: a pass goes on while any block has a bound."""

    def _is_over(self, state, phase):
        stale = (state["bounds"].isfinite() & ~state["fresh"]).any(1)
        return super()._is_over(state, phase) & ~stale


class KeepsTheOrder(Parsimonious):
    """Schedule: every batch is the first one."""

    def _places(self, state, slot):
        return super()._places({**state, "batch": torch.zeros_like(state["batch"])}, slot)


CAUGHT = [
    (LeavesTheBall, {}, ["check_search"]),
    (NeverHalves, {}, ["check_sides", "check_search", "check_reference"]),
    (NeverLowers, {}, ["check_reference"]),
    (TrustsOldBounds, {}, ["check_search", "check_reference"]),
    (AlwaysAsksAgain, {}, ["check_reference"]),
    (KeepsTheOrder, {"block": 1}, ["check_reference"]),
    (Climbs, {}, ["check_reference", "check_linear"]),
]


@pytest.mark.parametrize(("mutant", "options", "check"), caught(CAUGHT))
def test_a_mutant_is_caught(mutant, options, check, network, clean):
    attack = mutant(**{"eps": 0.05, "block": 4, **options})
    if check == "check_linear":
        attack.block = 1
    victim = (network, clean[0][:1], clean[1][:1]) if check in ("check_reference", "check_search") else ()
    with pytest.raises(AssertionError):
        globals()[check](attack, *victim)

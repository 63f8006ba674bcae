import pytest
from hand import adversarial, record

from rfdlight.records.run_folders import load_runs
from rfdlight.reporting.grid import build_grid
from rfdlight.reporting.paired import compare


def counts(pair):
    return (pair.both, pair.only_first, pair.only_second, pair.neither)


def test_defenses_are_compared_on_their_common_images(four):
    square, rays = compare(build_grid(load_runs(four)))
    for pair, attack in ((square, "square"), (rays, "rays")):
        # The undefended one comes first, although its runs were not given first.
        sides = [(side.row.method.defense, side.attack, side.budget) for side in (pair.first, pair.second)]
        assert sides == [("none", attack, 30), ("noise", attack, 30)]
        assert pair.images == 4
    assert counts(square) == (1, 0, 2, 1)
    assert counts(rays) == (2, 1, 1, 0)
    assert (square.difference, rays.difference) == (0.5, 0.0)
    # By hand: 2 / 6, give or take 1.96 * sqrt(3 - 4 / 6) / 6.
    assert square.interval == pytest.approx((-0.1657, 0.8323), abs=1e-4)
    assert (square.p, rays.p) == (0.5, 1.0)
    assert (square.p_holm, rays.p_holm) == (1.0, 1.0)


def test_holm_counts_every_comparison_of_the_report(write):
    names = [
        write("none", [adversarial(i, 10) for i in range(8)]),
        write("a", [adversarial(i, 20) for i in range(8)], defense="a"),
        write("b", [record(i) for i in range(8)], defense="b"),
    ]
    pairs = compare(build_grid(load_runs(names), [15, 30]))
    found = [
        (one.budget, one.row.method.defense, two.row.method.defense, pair.p, pair.p_holm)
        for pair in pairs
        for one, two in [(pair.first, pair.second)]
    ]
    # All eight images on one side: p = 2 / 2^8, the four of these times 6; the others say nothing.
    p = 2 / 2**8
    assert found == [
        (15, "none", "a", p, 6 * p),
        (15, "none", "b", p, 6 * p),
        (15, "a", "b", 1.0, 1.0),
        (30, "none", "a", 1.0, 1.0),
        (30, "none", "b", p, 6 * p),
        (30, "a", "b", p, 6 * p),
    ]


def test_only_the_images_of_both_runs_are_compared(write):
    names = [write("none", [adversarial(0, 3), record(1)]), write("noise", [record(1), record(2)], defense="noise")]
    (pair,) = compare(build_grid(load_runs(names)))
    assert counts(pair) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    "changes",
    [{"victim": "other"}, {"attack": "rays"}, {"eps": 0.1}, {"criterion": "paper"}, {"eot": 5}, {"data": "x"}],
)
def test_runs_of_different_victims_or_attacks_are_not_compared(write, changes):
    names = [write("none", [record(0)]), write("noise", [record(0)], defense="noise", **changes)]
    assert compare(build_grid(load_runs(names))) == []


def test_runs_without_a_common_image_are_not_compared(write):
    names = [write("none", [record(0)]), write("noise", [record(1)], defense="noise")]
    assert compare(build_grid(load_runs(names))) == []


def sides(pairs):
    return [(pair.first.row.method.defense, pair.first.attack, pair.second.attack) for pair in pairs]


def test_attacks_are_compared_on_one_defense(four):
    noise, none = compare(build_grid(load_runs(four)), "attacks")
    assert sides([noise, none]) == [("noise", "square", "rays"), ("none", "square", "rays")]
    # Behind noise square leaves 0, 1 and 3, rays 1, 2 and 3; undefended square leaves 3 alone, rays the others.
    assert (counts(noise), counts(none)) == ((2, 1, 1, 0), (0, 1, 3, 0))
    assert (noise.difference, none.difference) == (0.0, 0.5)


def test_averaged_queries_are_an_attack_of_their_own(write):
    names = [write("one", [record(0), record(1)]), write("five", [adversarial(0, 3), record(1)], eot=5)]
    (pair,) = compare(build_grid(load_runs(names)), "attacks")
    assert (pair.first.attack, pair.second.attack, counts(pair)) == ("square, eot 1", "square, eot 5", (1, 1, 0, 0))


@pytest.mark.parametrize(
    "changes", [{"eps": 0.1}, {"norm": "l2"}, {"targeted": True}, {"criterion": "paper"}, {"query_counting": "paper"}]
)
def test_attacks_under_other_terms_are_not_compared(write, changes):
    names = [write("square", [record(0)]), write("rays", [record(0)], attack="rays", **changes)]
    assert compare(build_grid(load_runs(names)), "attacks") == []


def test_attacks_are_compared_at_their_own_budgets_or_at_one(write):
    short = write("short", [adversarial(0, 8), record(1)])
    long = write("long", [record(0), adversarial(1, 40)], attack="rays", budget=60)
    (own,) = compare(build_grid(load_runs([short, long])), "attacks")
    assert (own.first.budget, own.second.budget, counts(own)) == (30, 60, (0, 1, 1, 0))
    pairs = compare(build_grid(load_runs([short, long]), [10, 30]), "attacks")
    assert [(pair.first.budget, pair.second.budget) for pair in pairs] == [(10, 10), (30, 30)]


def test_an_attack_is_not_compared_with_itself_at_fewer_queries(write):
    # Both runs share one column's setting, which is shown at both budgets.
    names = [write("short", [record(0)]), write("long", [record(0)], defense="noise", budget=60)]
    assert compare(build_grid(load_runs(names)), "attacks") == []

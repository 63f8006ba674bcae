from math import comb

import pytest
from hand import adversarial, record

from rfdlight.core.mcnemar import mcnemar
from rfdlight.records.runs import load_all
from rfdlight.reporting.grid import build_grid
from rfdlight.reporting.paired import compare, holm, paired_interval


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 3), (0, 6), (2, 11), (86, 150), (150, 86), (40, 7)])
def test_mcnemars_exact_p_is_twice_the_binomial_tail(first, second):
    total = first + second
    tail = sum(comb(total, k) for k in range(min(first, second) + 1)) / 2**total
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_mcnemars_p_of_a_published_table():
    # Approval of the Prime Minister in two polls of the same 1600 people: 150 changed to no, 86 to yes (Agresti,
    # Categorical Data Analysis, table 10.1). The statistic (86 - 150)^2 / 236 is 17.36, its normal p 0.00003.
    assert mcnemar(86, 150) == pytest.approx(3.7e-5, abs=1e-6)


def test_without_a_discordant_pair_the_difference_is_zero_with_a_width():
    assert mcnemar(0, 0) == 1.0
    low, high = paired_interval(0, 0, 10)
    # Half an observation in each discordant cell, 12 in all: +- 1.96 * sqrt(0.5 + 0.5) / 12.
    assert (low, high) == pytest.approx((-1.96 / 12, 1.96 / 12), abs=1e-4)


def test_the_interval_of_the_published_table():
    # Agresti: 0.04 with a standard error of 0.0095; the added halves change the fourth decimal.
    low, high = paired_interval(86, 150, 1600)
    assert (low, high) == pytest.approx((0.04 - 1.96 * 0.0095, 0.04 + 1.96 * 0.0095), abs=2e-4)
    assert paired_interval(150, 86, 1600) == pytest.approx((-high, -low))


def test_the_interval_stays_within_its_range():
    assert paired_interval(0, 3, 3)[1] == 1.0
    assert paired_interval(3, 0, 3)[0] == -1.0


@pytest.mark.parametrize(("p_first", "p_second"), [(0.05, 0.05), (0.1, 0.2), (0.02, 0.1), (0.4, 0.1)])
def test_the_interval_covers_the_difference_about_as_often_as_it_says(p_first, p_second):
    images, covered = 30, 0.0
    for first in range(images + 1):
        for second in range(images + 1 - first):
            low, high = paired_interval(first, second, images)
            if low <= p_second - p_first <= high:
                rest = images - first - second
                ways = comb(images, first) * comb(images - first, second)
                covered += ways * p_first**first * p_second**second * (1 - p_first - p_second) ** rest
    # Without the added halves, Wald's interval covers 0.932, 0.922 and 0.940 in the last three cases.
    assert 0.945 < covered < 0.995


def test_holm_steps_down_by_the_rank():
    # By hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which may not be below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.4, 0.9]) == pytest.approx([1.0, 1.0, 1.0])
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.3]) == [0.3]
    assert holm([]) == []


def test_holm_rejects_what_the_sequential_procedure_rejects():
    ps, level = [0.001, 0.2, 0.012, 0.013, 0.04, 0.0001], 0.05
    rejected = set()
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if ps[i] > level / (len(ps) - rank):
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(ps)) if p <= level} == rejected == {0, 2, 3, 5}


def counts(pair):
    return (pair.both, pair.only_first, pair.only_second, pair.neither)


def test_defenses_are_compared_on_their_common_images(four):
    square, rays = compare(build_grid(load_all(four)))
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
    pairs = compare(build_grid(load_all(names), [15, 30]))
    told = [
        (one.budget, one.row.method.defense, two.row.method.defense, pair.p, pair.p_holm)
        for pair in pairs
        for one, two in [(pair.first, pair.second)]
    ]
    # All eight images on one side: p = 2 / 2^8, the four of these times 6; the others say nothing.
    p = 2 / 2**8
    assert told == [
        (15, "none", "a", p, 6 * p),
        (15, "none", "b", p, 6 * p),
        (15, "a", "b", 1.0, 1.0),
        (30, "none", "a", 1.0, 1.0),
        (30, "none", "b", p, 6 * p),
        (30, "a", "b", p, 6 * p),
    ]


def test_only_the_images_of_both_runs_are_compared(write):
    names = [write("none", [adversarial(0, 3), record(1)]), write("noise", [record(1), record(2)], defense="noise")]
    (pair,) = compare(build_grid(load_all(names)))
    assert counts(pair) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    "changes",
    [{"victim": "other"}, {"attack": "rays"}, {"eps": 0.1}, {"criterion": "paper"}, {"eot": 5}, {"data": "x"}],
)
def test_runs_of_different_victims_or_attacks_are_not_compared(write, changes):
    names = [write("none", [record(0)]), write("noise", [record(0)], defense="noise", **changes)]
    assert compare(build_grid(load_all(names))) == []


def test_runs_without_a_common_image_are_not_compared(write):
    names = [write("none", [record(0)]), write("noise", [record(1)], defense="noise")]
    assert compare(build_grid(load_all(names))) == []


def sides(pairs):
    return [(pair.first.row.method.defense, pair.first.attack, pair.second.attack) for pair in pairs]


def test_attacks_are_compared_on_one_defense(four):
    noise, none = compare(build_grid(load_all(four)), "attacks")
    assert sides([noise, none]) == [("noise", "square", "rays"), ("none", "square", "rays")]
    # Behind noise square leaves 0, 1 and 3, rays 1, 2 and 3; undefended square leaves 3 alone, rays the others.
    assert (counts(noise), counts(none)) == ((2, 1, 1, 0), (0, 1, 3, 0))
    assert (noise.difference, none.difference) == (0.0, 0.5)


def test_averaged_queries_are_an_attack_of_their_own(write):
    names = [write("one", [record(0), record(1)]), write("five", [adversarial(0, 3), record(1)], eot=5)]
    (pair,) = compare(build_grid(load_all(names)), "attacks")
    assert (pair.first.attack, pair.second.attack, counts(pair)) == ("square, eot 1", "square, eot 5", (1, 1, 0, 0))


@pytest.mark.parametrize(
    "changes", [{"eps": 0.1}, {"norm": "l2"}, {"targeted": True}, {"criterion": "paper"}, {"query_counting": "paper"}]
)
def test_attacks_under_other_terms_are_not_compared(write, changes):
    names = [write("square", [record(0)]), write("rays", [record(0)], attack="rays", **changes)]
    assert compare(build_grid(load_all(names)), "attacks") == []


def test_attacks_are_compared_at_their_own_budgets_or_at_one(write):
    short = write("short", [adversarial(0, 8), record(1)])
    long = write("long", [record(0), adversarial(1, 40)], attack="rays", budget=60)
    (own,) = compare(build_grid(load_all([short, long])), "attacks")
    assert (own.first.budget, own.second.budget, counts(own)) == (30, 60, (0, 1, 1, 0))
    pairs = compare(build_grid(load_all([short, long]), [10, 30]), "attacks")
    assert [(pair.first.budget, pair.second.budget) for pair in pairs] == [(10, 10), (30, 30)]


def test_an_attack_is_not_compared_with_itself_at_fewer_queries(write):
    # Both runs share one column's setting, which is shown at both budgets.
    names = [write("short", [record(0)]), write("long", [record(0)], defense="noise", budget=60)]
    assert compare(build_grid(load_all(names)), "attacks") == []

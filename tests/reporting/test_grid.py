import math

import pytest
from hand import UNDECIDED, adversarial, record, ten
from scipy.stats import binomtest

from rfdlight.errors import UserError
from rfdlight.records.run_folders import load_runs
from rfdlight.records.summary import is_robust_at, robust_at
from rfdlight.reporting.grid import build_grid
from rfdlight.reporting.report import compile_report


def shares(cells):
    return [None if cell is None else (cell.robust.value, cell.lower.value) for cell in cells]


def labels(grid):
    return [(column.label, column.budget) for column in grid.columns if not column.worst]


def single(grid):
    """The cells of each row that are of one run."""
    return [[c for c, column in zip(row.cells, grid.columns, strict=True) if not column.worst] for row in grid.rows]


def worst(grid):
    """The worst cases of each row."""
    return [[c for c, column in zip(row.cells, grid.columns, strict=True) if column.worst] for row in grid.rows]


def worst_labels(grid):
    return [(column.label, column.queries) for column in grid.columns if column.worst]


def test_methods_stand_by_attacks(four):
    grid = build_grid(load_runs(four))
    assert labels(grid) == [("square", 30), ("rays", 30)]
    noise, none = grid.rows
    assert (noise.method.defense, none.method.defense) == ("noise", "none")
    assert shares(single(grid)[0]) == [(0.75, 0.5), (0.75, 0.75)]
    assert shares(single(grid)[1]) == [(0.25, 0.25), (0.75, 0.75)]
    low, high = binomtest(3, 4).proportion_ci(0.95, "wilson")
    robust = noise.cells[0].robust
    assert (robust.low, robust.high, robust.total) == pytest.approx((low, high, 4), abs=1e-12)


def test_in_the_worst_case_an_image_stands_in_every_run(four):
    noise, none = worst(build_grid(load_runs(four)))
    assert shares(noise) == [(0.5, 0.25)]
    assert shares(none) == [(0.0, 0.0)]
    assert list(noise[0].runs) == ["square", "rays"]


def test_smaller_budgets_are_read_from_the_records(four):
    grid = build_grid(load_runs(four), [10, 30])
    assert labels(grid) == [("square", 10), ("square", 30), ("rays", 10), ("rays", 30)]
    assert shares(single(grid)[1]) == [(0.5, 0.5), (0.25, 0.25), (0.75, 0.75), (0.75, 0.75)]
    assert shares(single(grid)[0]) == [(1.0, 1.0), (0.75, 0.5), (1.0, 1.0), (0.75, 0.75)]
    assert worst_labels(grid) == [("worst case", "10"), ("worst case", "30")]
    assert shares(worst(grid)[1]) == [(0.25, 0.25), (0.0, 0.0)]
    assert shares(worst(grid)[0]) == [(1.0, 1.0), (0.5, 0.25)]


@pytest.mark.parametrize("queries", [1, 5, 7, 12, 20, 29, 30])
def test_the_bounds_count_the_undecided_as_adversarial_from_their_success_or_last_query_and_as_robust(queries):
    negative = UNDECIDED | {"final_margin": -0.1}
    records = [*ten(), adversarial(10, 12, **negative), record(11, **negative)]
    # 4 is undecided at its last query, 30, and 5 had succeeded at 12; 7 is undecided at its clean image. 10 and 11 are
    # undecided as well, adversarial by sign.
    by_sign = sum(is_robust_at(each, queries) for each in records)
    lost = sum([queries >= 30, queries >= 12, True])
    assert robust_at(records, queries, "adversarial").value == (by_sign - lost) / 12
    assert robust_at(records, queries, "robust").value == (by_sign + (queries >= 12) + (queries >= 30)) / 12


def test_a_budget_above_that_of_a_run_is_refused(write):
    runs = load_runs([write("a", [record(0)]), write("b", [record(0)], budget=60, defense="noise")])
    with pytest.raises(UserError) as caught:
        build_grid(runs, [10, 1000])
    assert str(caught.value) == "budgets: expected at most 30, the budget of a, got 1,000"


def test_a_larger_run_also_is_robust_at_the_smaller_budget_and_a_smaller_one_leaves_a_gap(write):
    names = [write("none", [adversarial(0, 20)]), write("noise", [adversarial(0, 50)], budget=60, defense="noise")]
    grid = build_grid(load_runs(names))
    assert labels(grid) == [("square", 30), ("square", 60)]
    assert [shares(cells) for cells in single(grid)] == [[(0.0, 0.0), None], [(1.0, 1.0), (0.0, 0.0)]]


def test_clean_accuracy_counts_an_image_once_with_the_share_of_its_runs(write):
    wrong = {
        "clean_margin": -1.0, "clean_verdict": "wrong", "attack": 0, "billed": 0, "verdict": "misclassified",
    }  # fmt: skip
    names = [
        write("square", [record(0), record(1, **wrong)]),
        write("rays", [record(0), record(1), record(2)], attack="rays"),
    ]
    (row,) = build_grid(load_runs(names)).rows
    # 1 and 0.5 and 1, of three images.
    assert (row.clean.value, row.clean.total) == (pytest.approx(2.5 / 3), 3)


def test_options_are_named_where_they_are_not_the_defaults_and_settings_where_they_differ(write):
    names = [
        write("a", [record(0)], attack="nes"),
        write("b", [record(0)], attack="nes", options="sigma 0.01"),
        write("c", [record(0)], attack="nes", norm="l2", eps=1.0),
        write("d", [record(0)], attack="nes", eot=5, targeted=True),
    ]
    assert [label for label, _ in labels(build_grid(load_runs(names[:2])))] == ["nes", "nes, sigma 0.01"]
    assert [label for label, _ in labels(build_grid(load_runs(names)))] == [
        "nes, linf eps 0.2, eot 1",
        "nes, sigma 0.01, linf eps 0.2, eot 1",
        "nes, l2 eps 1, eot 1",
        "targeted nes, linf eps 0.2, eot 5",
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"seed": 0}, {"seed": 1}, ["square, seed 0", "square, seed 1"]),
        ({}, {"precision": "bfloat16"}, ["square, precision float32", "square, precision bfloat16"]),
        ({}, {"num_images": 500}, ["square, num images 1", "square, num images 500"]),
        ({}, {"budget": 60}, ["square, budget 30", "square, budget 60"]),
        ({}, {}, ["square", "square, run 2"]),
    ],
)
def test_two_runs_of_one_cell_have_columns_named_by_what_differs(write, first, second, expected):
    names = [
        write("a", [record(0)], **first),
        write("b", [adversarial(0, 3)], **second),
        write("c", [record(0)], defense="noise", **first),
    ]
    grid = build_grid(load_runs(names))
    assert [label for label, _ in labels(grid)] == expected
    assert [shares(cells) for cells in single(grid)] == [[(1.0, 1.0), (0.0, 0.0)], [(1.0, 1.0), None]]


def test_what_differs_between_methods_alone_splits_no_column(write):
    names = [write("a", [record(0)]), write("b", [record(0)], defense="noise", seed=3, precision="bfloat16")]
    assert labels(build_grid(load_runs(names))) == [("square", 30)]


def test_data_of_two_sets_are_two_rows(write):
    report = compile_report(load_runs([write("a", [record(0)]), write("b", [record(0)], data="cifar10")]))
    assert [row.victim for row in report.grid.rows] == ["digits_small on digits", "digits_small on cifar10"]


# Which runs the worst case is of


def totals(gradient):
    return {"attack": 9, "gradient": gradient, "success_check": 0, "criterion": 0, "checks": 0, "padding": 0}


def test_random_noise_belongs_to_the_worst_case_and_an_attack_with_gradients_does_not(write):
    names = [
        write("square", [record(0), adversarial(1, 3), record(2)]),
        write("random", [adversarial(0, 3), record(1), record(2)], attack="random_noise"),
        write(
            "pgd", [adversarial(0, 1), adversarial(1, 1), adversarial(2, 1)], attack="pgd", totals=totals(gradient=3)
        ),
    ]
    report = compile_report(load_runs(names))
    (row,) = report.grid.rows
    assert shares([row.cells[-1]]) == [(pytest.approx(1 / 3), pytest.approx(1 / 3))]
    assert list(row.cells[-1].runs) == ["square", "random_noise"]


def test_each_ball_has_a_worst_case_of_its_own(write):
    names = [write(f"{a}{eps}", [record(0)], attack=a, eps=eps) for a in ("square", "rays") for eps in (0.1, 0.2)]
    grid = build_grid(load_runs(names))
    assert worst_labels(grid) == [
        ("worst case, linf eps 0.1, exact query counting", "30"),
        ("worst case, linf eps 0.2, exact query counting", "30"),
    ]


def test_each_query_counting_has_a_worst_case_of_its_own(write):
    runs = [
        write(f"{attack}-{query_counting}", [record(0), fallen], attack=attack, query_counting=query_counting)
        for query_counting, fallen in (("exact", record(1)), ("paper", adversarial(1, 2)))
        for attack in ("square", "rays")
    ]
    report = compile_report(load_runs(runs))
    assert worst_labels(report.grid) == [
        ("worst case, linf eps 0.2, exact query counting", "30"),
        ("worst case, linf eps 0.2, paper query counting", "30"),
    ]
    assert shares(worst(report.grid)[0]) == [(1.0, 1.0), (0.5, 0.5)]


def test_a_worst_case_needs_two_attacks_on_common_images(write):
    alone = build_grid(load_runs([write("a", [record(0)]), write("b", [record(0)], attack="rays", defense="noise")]))
    assert worst_labels(alone) == []
    apart = build_grid(load_runs([write("c", [record(0)]), write("d", [record(1)], attack="rays")]))
    assert worst_labels(apart) == []


def test_a_worst_case_over_a_part_of_the_images_has_a_caveat(write):
    names = [write("a", [record(0), record(1)]), write("b", [adversarial(1, 2), record(2)], attack="rays")]
    report = compile_report(load_runs(names))
    assert shares(worst(report.grid)[0]) == [(0.0, 0.0)]
    assert "The worst case of undefended is over the images that all its runs have: 1 of 3." in report.caveats


def test_worst_cases_of_different_attacks_have_a_caveat(four, write):
    three = [*four, write("none-nes", [record(i) for i in range(4)], attack="nes")]
    caveat = "The worst cases cover different attacks: compare only worst cases of the same attacks."
    assert caveat in compile_report(load_runs(three)).caveats
    assert caveat not in compile_report(load_runs(four)).caveats


def test_own_budgets_that_differ_are_named_so(write):
    names = [write("a", [adversarial(0, 20)]), write("b", [adversarial(1, 50), record(0)], attack="rays", budget=60)]
    report = compile_report(load_runs(names))
    assert [column.heading for column in report.grid.columns] == [
        "square, 30 queries",
        "rays, 60 queries",
        "worst case, own budgets",
    ]
    # Each run at its own budget, on the image that both have.
    assert shares(worst(report.grid)[0]) == [(0.0, 0.0)]


def test_a_run_without_images_has_a_row_of_dashes(write):
    (row,) = build_grid(load_runs([write("a", [], complete=False)])).rows
    assert math.isnan(row.clean.value)
    assert math.isnan(row.cells[0].robust.value)

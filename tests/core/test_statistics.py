"""Intervals and tests against statsmodels, published tables and exact coverage."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats import contingency_tables
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from rfdlight.core.statistics import Z, holm, mcnemar, mean_interval, paired_interval, wald, wilson

CLOSE = {"rel": 1e-9, "abs": 1e-12}
GRID = [(count, total) for total in (1, 2, 30, 10**6) for count in {0, 1, total // 3, total - 1, total}]


@st.composite
def proportions(draw):
    total = draw(st.integers(1, 10**6))
    return draw(st.integers(0, total)), total


tables = st.lists(st.integers(0, 500), min_size=4, max_size=4).filter(any)


def check_one_proportion(count, total):
    assert wilson(count, total) == pytest.approx(proportion_confint(count, total, method="wilson"), **CLOSE)
    # The zeros and ones themselves are the values of Wald's mean.
    assert wald(count, count, total)[1] == pytest.approx(proportion_confint(count, total, method="normal")[1], **CLOSE)


def test_intervals_of_a_proportion_agree_with_statsmodels_on_a_grid():
    for count, total in GRID:
        check_one_proportion(count, total)


@settings(max_examples=20, deadline=None)
@given(proportions())
def test_intervals_of_a_proportion_agree_with_statsmodels(counts):
    check_one_proportion(*counts)


def test_no_observation_leaves_the_whole_range():
    assert wilson(0, 0) == (0.0, 1.0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=50))
def test_the_interval_of_a_mean_agrees_with_statsmodels(values):
    array = np.array(values)
    if np.ptp(array) > 1e-6:
        assert mean_interval(array) == pytest.approx(DescrStatsW(array).tconfint_mean(), rel=1e-6, abs=1e-9)
    else:
        assert mean_interval(np.full(4, values[0])) == (values[0], values[0])


@settings(max_examples=20, deadline=None)
@given(tables)
def test_tests_and_intervals_of_pairs_agree_with_statsmodels(cells):
    both, first, second, neither = cells
    expected = contingency_tables.mcnemar([[both, first], [second, neither]], exact=True).pvalue
    assert mcnemar(first, second) == pytest.approx(expected if first + second else 1.0, **CLOSE)
    # Half an observation more in each cell.
    adjusted = DescrStatsW([1, -1, 0], weights=[second + 0.5, first + 0.5, both + neither + 1])
    half = Z * adjusted.std / adjusted.sum_weights**0.5
    expected = max(-1.0, adjusted.mean - half), min(1.0, adjusted.mean + half)
    assert paired_interval(first, second, sum(cells)) == pytest.approx(expected, **CLOSE)


def test_holm_agrees_with_statsmodels():
    generator = np.random.default_rng(0)
    for count in (1, 2, 7, 30):
        ps = [*generator.uniform(0, 0.1, count), 0.0, 1.0]
        assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1].tolist(), **CLOSE)


def test_no_p_value_is_adjusted_to_none():
    assert holm([]) == []
    assert pytest.approx(norm.ppf(0.975)) == Z


def test_mcnemars_p_of_a_published_table():
    # Approval of the Prime Minister in two polls of the same 1600 people: 150 changed to no, 86 to yes (Agresti,
    # Categorical Data Analysis, table 10.1). The statistic (86 - 150)^2 / 236 is 17.36, its normal p 0.00003.
    assert mcnemar(86, 150) == pytest.approx(3.7e-5, abs=1e-6)


def test_the_paired_interval_of_the_published_table():
    # Agresti: 0.04 with a standard error of 0.0095; the added halves change the fourth decimal.
    low, high = paired_interval(86, 150, 1600)
    assert (low, high) == pytest.approx((0.04 - 1.96 * 0.0095, 0.04 + 1.96 * 0.0095), abs=2e-4)
    assert paired_interval(150, 86, 1600) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("p_first", "p_second"), [(0.05, 0.05), (0.1, 0.2), (0.02, 0.1), (0.4, 0.1)])
def test_the_paired_interval_covers_the_difference_about_as_often_as_it_should(p_first, p_second):
    pairs, covered = 30, 0.0
    for first in range(pairs + 1):
        for second in range(pairs + 1 - first):
            low, high = paired_interval(first, second, pairs)
            if low <= p_second - p_first <= high:
                rest = pairs - first - second
                ways = comb(pairs, first) * comb(pairs - first, second)
                covered += ways * p_first**first * p_second**second * (1 - p_first - p_second) ** rest
    # Without the added halves, Wald's interval covers 0.932, 0.922 and 0.940 in the last three cases.
    assert 0.945 < covered < 0.995


def test_the_paired_interval_stays_within_its_range():
    assert paired_interval(0, 3, 3)[1] == 1.0
    assert paired_interval(3, 0, 3)[0] == -1.0

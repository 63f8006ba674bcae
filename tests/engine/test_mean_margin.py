"""Sequential tests of mean margins: a slow reference, error probabilities, tails, majorities and requests."""

import math

import numpy as np
import pytest
import torch
from harness import others_slow
from scipy import integrate

from rfdlight.engine.evaluations import (
    ADVERSARIAL_LEVEL,
    ROBUST_LEVEL,
    EvaluationState,
    MeanMarginTest,
    majority_verdict,
)
from rfdlight.records.records import HEAVY_TAIL


def opened(labels, classes=3, targeted=False):
    state = EvaluationState.open(torch.tensor(labels), classes, 0)
    state.targeted[:] = targeted
    return state


def rows_of(state):
    return torch.arange(len(state.count))


def fed(state, logits, blocks):
    """Add logits (rows, evaluations, classes) in blocks, with new stakes after each."""
    rows, start = rows_of(state), 0
    for size in blocks:
        block = logits[:, start : start + size]
        state.add(rows.repeat_interleave(block.shape[1]), block.reshape(-1, logits.shape[2]))
        state.bet(rows)
        start += size
    return state


def reference(margins, blocks, caps):
    """Log wealth of the bets on "some mean is negative" and "each is positive", by plain loops over one image."""
    below, above = 0.0, np.zeros(margins.shape[1])
    start, stake_below, rival, stake_above = 0, 0.0, 0, np.zeros(margins.shape[1])
    for size in blocks:
        for margin in margins[start : start + size]:
            below += math.log(max(1 - stake_below * margin[rival], 1e-3))
            above += np.log(np.maximum(1 + stake_above * margin, 1e-3))
        start += size
        seen = margins[:start]
        mean, second = seen.sum(0) / (start + 2), (seen**2).mean(0)
        largest = np.abs(seen).max(0)
        rival = int(seen.sum(0).argmin())
        stake_below = min(-mean[rival] / second[rival], caps[0] / largest[rival]) if mean[rival] < 0 else 0.0
        stake_above = np.where(mean > 0, np.minimum(np.abs(mean) / second, caps[1] / largest), 0)
    return below, above.min()


@pytest.mark.parametrize(("targeted", "caps"), [(False, (0.25, 0.5)), (True, (0.5, 0.25))])
def test_the_wealth_is_that_of_a_slow_reference(targeted, caps):
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(0, 1, (20, 60, 3)) + rng.normal(0, 0.7, (20, 1, 3)))
    labels = rng.integers(0, 3, 20).tolist()
    blocks = [4, 2, 3, 5, 11, 35]
    state = fed(opened(labels, targeted=targeted), logits, blocks)
    adversarial, robust = state.evidence(rows_of(state))
    for row, label in enumerate(labels):
        margins = (logits[row, :, [label]] - logits[row]).numpy()
        below, above = reference(np.delete(margins, label, 1), blocks, caps)
        expected = (above, below) if targeted else (below, above)
        assert (float(adversarial[row]), float(robust[row])) == pytest.approx(expected, rel=1e-9)


def test_sums_do_not_depend_on_the_passes_that_evaluations_share():
    logits = torch.randn(6, 30, 3, generator=torch.Generator().manual_seed(1)).double()
    together = fed(opened([0, 1, 2, 0, 1, 2]), logits, [10, 20])
    for row in range(6):
        alone = fed(opened([row % 3]), logits[row : row + 1], [10, 20])
        for name in ("below", "above", "margins", "squares", "lowest", "highest", "count"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[row])


@pytest.mark.parametrize(
    ("distribution", "bound"), others_slow([("normal", 0.025), ("exponential", 0.025), ("two points", 0.025)], 2)
)
def test_a_mean_of_zero_is_rarely_called_adversarial_however_long_the_test_lasts(distribution, bound):
    rng, images = np.random.default_rng(2), 2000
    test, state = MeanMarginTest(most=1000), opened([0] * images, 2)
    called = torch.zeros(images, dtype=torch.bool)
    rows = rows_of(state)
    for wanted in [4, 6, 10, 20, 40, 80, 160, 320, 360]:
        draws = {
            "normal": lambda size: rng.normal(0, 1, size),
            "exponential": lambda size: rng.exponential(1, size) - 1,
            "two points": lambda size: np.where(rng.random(size) < 0.2, 4.0, -1.0),
        }[distribution]((images, wanted))
        logits = torch.tensor(np.stack([draws, np.zeros_like(draws)], 2))
        state.add(rows.repeat_interleave(wanted), logits.reshape(-1, 2))
        called |= test.decide(state, rows) == 1
        state.bet(rows)
    assert set(state.count.tolist()) == {1000}
    # The bound is exact; three standard errors are 1.05 points.
    assert int(called.sum()) / images <= bound + 0.0105


def test_clear_means_are_decided_by_the_fewest_evaluations():
    generator, test = torch.Generator().manual_seed(3), MeanMarginTest()
    logits = torch.randn(4, 40, 3, generator=generator).double() * 0.3
    logits[:, :, 1] += torch.tensor([-3.0, 3.0, -3.0, 3.0])[:, None]  # against class 0
    logits[:, :, 2] -= 5
    state = opened([0] * 4)
    state.targeted[2:] = True
    fed(state, logits, [4, 2, 3, 5, 7, 19])
    assert test.decide(state, rows_of(state)).tolist() == [-1, 1, 1, -1]


def test_a_test_of_few_evaluations_decides_clear_means():
    margins = torch.tensor([[-3.0], [3.0]]).double().expand(2, 30)
    state = opened([0, 0], 2)
    fed(state, torch.stack([margins, torch.zeros_like(margins)], 2), [4, 1, 2, 2, 3, 3, 4, 1, 5, 5])
    assert MeanMarginTest(30).decide(state, rows_of(state)).tolist() == [1, -1]


def test_rare_large_margins_leave_the_mean_undecided():
    margins = torch.full((1, 400), -1.0, dtype=torch.float64)
    margins[:, 200] = 60.0
    state = opened([0], 2)
    fed(state, torch.stack([margins, torch.zeros_like(margins)], 2), [4, 96, 100, 200])
    assert state.is_adversarial(rows_of(state)).all()
    assert float(state.tail_share(rows_of(state))) > 0.99
    assert int(MeanMarginTest().decide(state, rows_of(state), level=1.0)) == 0


def test_the_tail_share_counts_evaluations_against_the_mean():
    margins = torch.tensor([[-3.0, -1.0, -1.0, 2.0], [3.0, 1.0, 1.0, -2.0], [-9.0, -1.0, -1.0, -1.0]]).double()
    state = opened([0] * 3, 2)
    fed(state, torch.stack([margins, torch.zeros_like(margins)], 2), [4])
    mean = -0.75
    expected = (2 - mean) ** 2 / ((margins[0] - mean) ** 2).sum()
    shares = state.tail_share(rows_of(state))
    torch.testing.assert_close(shares[:2], torch.stack([expected, expected]))
    assert float(shares[2]) < HEAVY_TAIL  # the large margin is on the side of the mean


def test_equal_answers_are_decided_and_ties_are_not():
    state = opened([0, 0, 0], 2)
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])[:, None].expand(3, 40, 2).double()
    fed(state, logits, [4, 2, 3, 5, 7, 19])
    assert MeanMarginTest().decide(state, rows_of(state)).tolist() == [-1, 1, 0]
    assert state.tail_share(rows_of(state)).tolist() == [0, 0, 0]


def test_one_evaluation_decides_where_the_test_makes_one():
    state = fed(opened([0, 1], 2), torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]), [1])
    assert MeanMarginTest(1).decide(state, rows_of(state)).tolist() == [-1, 1]


def counts_of(test, mean):
    """Numbers of evaluations at each look, for normal margins of a mean."""
    state, counts, wanted = opened([0], 2), [], test.first
    generator = torch.Generator().manual_seed(0)
    while wanted:
        margins = torch.randn(1, wanted, generator=generator) + mean
        state = fed(state, torch.stack([margins, torch.zeros_like(margins)], 2), [wanted])
        counts.append(int(state.count))
        wanted = int(test.request(state, rows_of(state)))
    return counts


def test_requests_grow_by_a_quarter_and_end_at_the_most():
    growing = [4, 5, 7, 9, 12, 15, 19, 20, 25, 32, 40, 50, 63, 79, 99, 100]
    assert counts_of(MeanMarginTest(most=100, least=40), 1.0) == growing


def test_requests_end_where_the_most_evaluations_would_not_decide():
    # A mean of 0.06 takes 2 log(40) / 0.06^2 = 2050 evaluations with the best bets.
    most = [counts_of(MeanMarginTest(2000), mean)[-1] for mean in (0.0, 0.2)]
    assert 40 < most[0] < 2000 == most[1]


def test_stakes_are_kept_at_the_same_point_alone():
    state = fed(opened([0, 0], 2), torch.tensor([[[-1.0, 0.0]]] * 2).expand(2, 9, 2), [9])
    state.restart(torch.tensor([0]), 4, keep_stakes=True)
    state.restart(torch.tensor([1]), 4)
    assert state.stake_below.tolist() == [0.25, 0]
    assert state.below.tolist() == [0, 0]


@pytest.mark.parametrize("count", [40, 100])
def test_the_majority_test_is_a_mixture_likelihood_ratio(count):
    for adversarial in range(count + 1):
        ratio, _ = integrate.quad(lambda p, a=adversarial: 2 * (2 * p) ** a * (2 - 2 * p) ** (count - a), 0.5, 1)
        mirrored, _ = integrate.quad(lambda p, a=adversarial: 2 * (2 * p) ** (count - a) * (2 - 2 * p) ** a, 0.5, 1)
        expected = "undecided"
        if ratio >= 1 / ADVERSARIAL_LEVEL:
            expected = "adversarial"
        elif mirrored >= 1 / ROBUST_LEVEL:
            expected = "robust"
        assert majority_verdict(adversarial, count) == expected


def test_a_fair_coin_is_rarely_called_at_any_time():
    """The exact probability that a walk of 400 fair answers ever gets each verdict, by dynamic programming."""
    wrong = {"adversarial": 0.0, "robust": 0.0}
    alive = {0: 1.0}
    for count in range(2, 401):
        steps: dict[int, float] = {}
        for adversarial, probability in alive.items():
            for more in (0, 1) if count > 2 else (0, 1, 1, 2):
                weight = probability / (2 if count > 2 else 4)
                steps[adversarial + more] = steps.get(adversarial + more, 0.0) + weight
        alive = {}
        for adversarial, probability in steps.items():
            verdict = majority_verdict(adversarial, count)
            if verdict == "undecided":
                alive[adversarial] = probability
            else:
                wrong[verdict] += probability
    assert 0.001 < wrong["adversarial"] <= ADVERSARIAL_LEVEL
    assert 0.001 < wrong["robust"] <= ROBUST_LEVEL

"""Sequential tests of a mean margin: bets, empirical Bernstein, an asymptotic confidence sequence, and one t-test.

Each tests whether the mean of a point's margins is negative, at level 0.025 and at the looks of `MeanMarginTest`. The
table states how often each calls a mean of exactly zero negative, how often it finds a mean of a quarter of a standard
deviation, and its mean number of evaluations there.

- Bets: `MeanMarginTest`, without its condition on tails.
- Empirical Bernstein: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS-B 2024,
  section 3.2, with predictable mixing. Its bound on the margins is four times the largest so far, as that of the bets.
- Asymptotic: the normal mixture of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Time-uniform central limit theory
  and asymptotic confidence sequences, Annals of Statistics 2024, Theorem 2.2, tuned to 50 evaluations.
- t-test: one test of 100 evaluations. It is no sequential test: the reference for the number of evaluations.

    python benchmarks/sequential_tests.py
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from rfdlight.engine.evaluations import ADVERSARIAL_LEVEL, EvaluationState

Array = NDArray[np.float64]
IMAGES, MOST = 1000, 1500

DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "exponential": lambda rng, size: rng.exponential(size=size) - 1,
    "log-normal, s = 1": lambda rng, size: (rng.lognormal(size=size) - np.exp(0.5)) / 2.16,
    "one in twenty of 19": lambda rng, size: np.where(rng.random(size) < 0.05, 19.0, -1.0) / 4.36,
}
"""Margins with mean 0 and standard deviation 1."""


def looks() -> list[int]:
    """Return the numbers of evaluations at which `MeanMarginTest` decides."""
    found = [4]
    while found[-1] < MOST:
        found.append(min(-(-found[-1] * 5 // 4), MOST))
    return found


def first_crossing(log_wealth: Array) -> NDArray[np.int64]:
    """Return the evaluations of each image at the first look with enough wealth, 0 if there is none."""
    at = np.array([n for n in looks() if n >= 40])
    enough = log_wealth[:, at - 1] >= -np.log(ADVERSARIAL_LEVEL)
    return np.where(enough.any(1), at[enough.argmax(1)], 0)


def bets(margins: Array) -> NDArray[np.int64]:
    """Return the evaluations at which the bets of `EvaluationState` decide."""
    state, rows = EvaluationState.open(torch.zeros(len(margins), dtype=torch.int64), 2, 0), torch.arange(len(margins))
    wealth, start = np.zeros_like(margins), 0
    for end in looks():
        part = torch.from_numpy(margins[:, start:end]).reshape(-1)
        state.add(rows.repeat_interleave(end - start), torch.stack([part, torch.zeros_like(part)], 1))
        wealth[:, end - 1] = np.where(state.is_adversarial(rows), state.evidence(rows)[0], -np.inf)
        state.bet(rows)
        start = end
    return first_crossing(wealth)


def empirical_bernstein(margins: Array) -> NDArray[np.int64]:
    """Return the evaluations at which the empirical Bernstein process decides."""
    n = np.arange(1, MOST + 1)
    before = np.concatenate([np.zeros((len(margins), 1)), margins.cumsum(1)[:, :-1]], 1) / n  # shrunk mean so far
    deviation = np.square(margins - before)
    spread = np.concatenate([np.ones((len(margins), 1)), (1 + deviation.cumsum(1)[:, :-1]) / (n[1:])], 1)
    largest = np.maximum.accumulate(np.abs(margins), 1)
    bound = 4 * np.concatenate([largest[:, :1], largest[:, :-1]], 1)
    stake = np.minimum(np.sqrt(2 * np.log(2 / ADVERSARIAL_LEVEL) / (spread * n * np.log1p(n))), 0.5 / bound)
    cost = (-np.log1p(-stake * bound) - stake * bound) / np.square(bound)
    return first_crossing((-stake * margins - cost * deviation).cumsum(1))


def asymptotic(margins: Array) -> NDArray[np.int64]:
    """Return the evaluations at which the asymptotic confidence sequence decides."""
    n, rho = np.arange(1, MOST + 1), 1 / 50
    mean = margins.cumsum(1) / n
    variance = np.maximum(np.square(margins).cumsum(1) / n - np.square(mean), 1e-12)
    wealth = np.square(n * mean) * rho / (2 * variance * (n * rho + 1)) - np.log(n * rho + 1) / 2
    return first_crossing(np.where(mean < 0, wealth, -np.inf))


def t_test(margins: Array) -> NDArray[np.int64]:
    """Return 100 where the t-test of the first 100 evaluations decides, else 0."""
    p = stats.ttest_1samp(margins[:, :100], 0, axis=1, alternative="less").pvalue
    return np.where(p < ADVERSARIAL_LEVEL, 100, 0)


def main() -> None:
    print("| margins | test | mean zero called negative | mean -1/4 found | evaluations there |")
    print("|---|---|---|---|---|")
    for name, sample in DISTRIBUTIONS.items():
        for test in (bets, empirical_bernstein, asymptotic, t_test):
            margins = sample(np.random.default_rng(0), (IMAGES, MOST))
            wrong, found = test(margins), test(margins - 0.25)
            spent = np.where(found > 0, found, 100 if test is t_test else MOST).mean()
            shares = f"{np.mean(wrong > 0):.1%} | {np.mean(found > 0):.1%}"
            print(f"| {name} | {test.__name__.replace('_', ' ')} | {shares} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()

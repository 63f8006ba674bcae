"""Error, power and cost of the success criterion, on victims whose truth is known.

The answers of a synthetic victim do not depend on the image: every evaluation draws a margin, of the label against
the other class, from a distribution whose mean and share of negative margins are known. So an image is adversarial at
every point, or at none. The table states, for each distribution and attack, the percentage of images that were ever
called adversarial, by the criterion during the attack or by the final verdict, and the rows of the criterion per row
of the attack.

    python benchmarks/criterion.py --images 200 --attacks square random_noise rays nes
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

import rfdlight as rfd
from rfdlight.testing.small_victims import IidVictim, Sampler, normal, quantile


def exponential(wrong: float) -> Sampler:
    """Exponential margins with a long tail on the right side."""
    shift = -torch.log1p(torch.tensor(-wrong)).item()
    return lambda rows: torch.empty(rows).exponential_() - shift


def lognormal(scale: float) -> Callable[[float], Sampler]:
    """Log-normal margins with a long tail on the right side."""

    def sampler(wrong: float) -> Sampler:
        shift = torch.tensor(scale * quantile(wrong)).exp().item()
        return lambda rows: (scale * torch.randn(rows)).exp() - shift

    return sampler


def rare(wrong: float, share: float = 0.05, mean: float = 0.1) -> Sampler:
    """Normal margins of which one in twenty is replaced by a large one on the right side; the mean is at least 0.1."""
    usual = -quantile(wrong / (1 - share))
    large = max((mean - (1 - share) * usual) / share, 3.0)
    return lambda rows: torch.where(torch.rand(rows) < share, large, torch.randn(rows) + usual)


CELLS: list[tuple[str, Callable[[float], Sampler], tuple[float, ...], bool]] = [
    ("normal", normal, (0.20, 0.40, 0.45, 0.48), False),
    ("exponential", exponential, (0.20, 0.40, 0.60), False),
    ("log-normal, s = 1", lognormal(1.0), (0.20, 0.40, 0.60), False),
    ("rare large margins", rare, (0.20, 0.40, 0.60), False),
    ("log-normal, s = 2", lognormal(2.0), (0.80,), False),
    ("normal", normal, (0.55, 0.60, 0.70), True),
]
"""Distributions, shares of wrong single answers, and whether the mean is adversarial."""


def shares(run: rfd.Run) -> list[float]:
    """Return percentages: images ever called adversarial, not robust, and undecided; wrong final evaluations."""
    records = run.records
    ever = sum(record.success_query is not None or record.verdict == "adversarial" for record in records)
    headline = sum(not record.is_robust for record in records)
    undecided = sum(record.verdict == "undecided" for record in records)
    recorded = sum(record.final_adversarial / record.final_evaluations for record in records)
    return [100 * count / len(records) for count in (ever, headline, undecided, recorded)]


def spread(values: tuple[float, ...], digits: int) -> str:
    """Return the smallest and the largest value, or the value that all have."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--attacks", nargs="+", default=["square", "random_noise", "rays", "nes"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    x = torch.full((options.images, 3, 8, 8), 0.5)
    y = torch.zeros(options.images, dtype=torch.int64)
    percentages = ["wrong answers, %", "ever adversarial, %", "not robust, %", "undecided, %", "recorded, %"]
    print(f"| truth | margins | {' | '.join(percentages)} | cost |")
    print("|---|---|---|---|---|---|---|---|")
    for name, family, wrong_shares, adversarial in CELLS:
        for wrong in wrong_shares:
            found, costs = [], []
            for attack in options.attacks:
                run = rfd.evaluate(
                    IidVictim(family(wrong), adversarial),
                    (x, y),
                    attack=attack,
                    eps=8 / 255,
                    budget=options.budget,
                    batch_size=min(100, options.images),
                    pool_size=options.images,
                    seed=options.seed,
                    sanity_checks=False,
                )
                found.append(shares(run))
                costs.append(run.summary.ledger["criterion_ratio"])
            cells = [spread(values, 1) for values in zip(*found, strict=True)]
            truth = "wrong" if adversarial else "right"
            row = [truth, name, f"{100 * wrong:.0f}", *cells, spread(tuple(costs), 2)]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

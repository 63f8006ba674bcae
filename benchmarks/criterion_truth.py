"""Headline of evaluations behind noise, against the truth at their final points.

Feature noise after the last stage of resnet20 reaches the logits through average pooling and a linear layer alone.
Its mean is zero, so the mean logits at a point are those of the undefended network: the truth is exact. Behind input
noise the truth is the sign of the mean margin over 1,000 evaluations of each final point, and over 10,000 where the
mean is within 6 standard errors of zero.

    python benchmarks/criterion_truth.py --images 300 --attacks square random_noise
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import rfdlight as rfd

FIRST, MOST, CLEAR = 1_000, 10_000, 6.0
"""Evaluations of a final point, those of an unclear one, and the standard errors from zero of a clear mean margin."""

ROWS = 250

Forward = Callable[[Tensor], Tensor]


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Return the margins of the labels against each class, (rows, classes) float64, infinite against themselves."""
    own = logits.gather(1, y[:, None])
    return (own - logits).double().masked_fill(one_hot(y, logits.shape[1]).bool(), math.inf)


def sampled_is_right(forward: Forward, x: Tensor, y: Tensor) -> bool:
    """Return whether the mean logits at one image (1, C, H, W) choose its label (1,)."""
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    while count < MOST:
        found = margins(forward(x.expand(ROWS, *x.shape[1:])), y.expand(ROWS))
        total, squares, count = total + found.sum(0), squares + found.square().sum(0), count + ROWS
        mean = total / count
        rival = int(mean.argmin())
        error = math.sqrt(max(float(squares[rival] / count - mean[rival] ** 2), 0) / count)
        if count >= FIRST and abs(float(mean[rival])) > CLEAR * error:
            break
    return float(mean.min()) >= 0


def truth(network: nn.Module, defense: rfd.Defense, points: Tensor, y: Tensor, exact: bool) -> list[bool]:
    """Return whether the mean logits choose the labels y (images,) at final points (images, C, H, W)."""
    with torch.no_grad():
        if exact:
            logits = torch.cat([network(part) for part in points.split(ROWS)])
            return (logits.argmax(1) == y).tolist()
        with defense.on(network):
            return [sampled_is_right(network, points[i : i + 1], y[i : i + 1]) for i in range(len(y))]


def counts(records: Sequence[rfd.Record], right: Sequence[bool]) -> list[str]:
    """Return the cells of one row of the table."""
    total = len(records)
    undecided = [i for i, record in enumerate(records) if record.verdict == "undecided"]
    shown = [sum(record.is_robust for record in records), sum(right), len(undecided)]
    wrong = sum(r.clean_correct and r.is_robust != right[i] for i, r in enumerate(records))
    initially_wrong = sum(not r.clean_correct and right[i] for i, r in enumerate(records))
    return [*(f"{100 * count / total:.1f} %" for count in shown), str(wrong), str(initially_wrong)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--attacks", nargs="+", default=["square", "random_noise"])
    parser.add_argument("--defenses", nargs="+", default=["feature", "input"], choices=["feature", "input"])
    options = parser.parse_args()
    print(
        "| noise | attack | headline | truth | undecided | wrong in the headline | right, but initially wrong | cost |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for kind in options.defenses:
        for attack in options.attacks:
            network = rfd.load_victim("resnet20-cifar10")
            sigma = {"feature": 3.8, "input": 0.014}[kind]
            defense = rfd.FeatureNoise(sigma, layers=["layer3"]) if kind == "feature" else rfd.InputNoise(sigma)
            data = rfd.data.CIFAR10(num_images=options.images)
            run = rfd.evaluate(
                network, data, attack=attack, defense=defense, eps=0.05, budget=options.budget, sanity_checks=False
            )
            y = torch.tensor([record.label for record in run.records])
            right = truth(network, defense, run.adversarial, y, kind == "feature")
            cells = [*counts(run.records, right), f"{run.summary.ledger['criterion_ratio']:.2f}"]
            print(f"| {kind} | {attack} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""Compares the query counts of Square, and its successes on a random victim, on victims that are robust everywhere.

The first victim always answers with the right class: its rows are the cost of a budget of 100 queries. The second has a
normal margin with a positive mean, negative in 20 % of the answers: a search that ends early has taken a wrong single
answer for an adversarial image.

    pip install --editable '.[bench]'
    python benchmarks/peers_random_victim.py --images 50 [--keep FILE NAME]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from page_tables import add_keep, keep
from peers_strength import CLASSES, art, art_norm, torchattacks_square
from reproduction_records import table
from torch import Tensor, nn

import rfdlight as rfd
from rfdlight.core.statistics import wilson
from rfdlight.core.threat import ThreatModel

BUDGET = 100
THREAT = ThreatModel("linf", 8 / 255)
HEAD = ("Square", "queries per image at a budget of 100", "searches that a random victim ends early")
MEAN = 0.8416  # of a normal margin with variance 1 that is negative in 20 % of the answers


class Margin(nn.Module):
    """Answers with class 0 unless a normal margin is negative, and counts rows."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread, self.rows = spread, 0

    @torch.no_grad()
    def forward(self, points: Tensor) -> Tensor:
        self.rows += len(points)
        logits = torch.zeros(len(points), CLASSES)
        logits[:, 0] = MEAN + self.spread * torch.randn(len(points))
        return logits


def of_peer(call: Callable[..., object], spread: float, x: Tensor, y: Tensor) -> list[int]:
    """Return the rows of each image's search."""
    rows = []
    for i in range(len(x)):
        torch.manual_seed(i)
        victim = Margin(spread)
        call(victim, x[i : i + 1], y[i : i + 1], THREAT, BUDGET)
        rows.append(victim.rows)
    return rows


def cells(queries: list[int], early: int) -> list[str]:
    """Return a library's cells: the mean of the images' queries, and the share of the searches that ended early."""
    low, high = wilson(early, len(queries))
    share = f"{100 * early / len(queries):.0f} % ({100 * low:.1f} to {100 * high:.1f})"
    return [f"{sum(queries) / len(queries):.0f}", share]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=50)
    add_keep(parser)
    options = parser.parse_args()
    x = torch.rand(options.images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(options.images, dtype=torch.int64)
    ours = [
        rfd.evaluate(Margin(spread), (x, y), "square", eps=THREAT.eps, budget=BUDGET, progress=False, compile=False)
        for spread in (0.0, 1.0)
    ]
    ended = sum(record.success_query is not None for record in ours[1].records)
    found = {"rfdlight": {"queries": ours[0].queries.tolist(), "early": ended}}
    peers = {
        "torchattacks": torchattacks_square(rescaled=True),
        "ART": art("SquareAttack", lambda t, b: {"norm": art_norm(t), "eps": t.eps, "max_iter": b}),
    }
    for name, call in peers.items():
        full = of_peer(call, 0.0, x, y)
        early = sum(rows < most for rows, most in zip(of_peer(call, 1.0, x, y), full, strict=True))
        found[name] = {"queries": full, "early": early}
    keep(options, rows=found)
    print(table(HEAD, [[name, *cells(**measured)] for name, measured in found.items()]))


if __name__ == "__main__":
    main()

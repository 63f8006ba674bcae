"""What an image of 224 x 224 takes up in the pool, attack by attack, without the victim's forward passes.

Usage: python benchmarks/memory.py [--size 224]
"""

from __future__ import annotations

import argparse
from pkgutil import resolve_name

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from rfdlight.attacks.surrogate import SurrogateAttack
from rfdlight.core.registry import NAMES
from rfdlight.engine import Engine, EngineConfig, Oracle, criterion_named


class Means(nn.Module):
    """Logits from means over channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).repeat(1, 4)[:, :10]


def megabytes(name: str, size: int) -> float:
    """Return the memory of an image in the pool under an attack in its first norm, in MB (10^6 bytes)."""
    made = resolve_name(NAMES["attack"][name])
    norm = made.norms[0]
    attack = made(eps=0.05 if norm == "linf" else 5.0, norm=norm)
    config = EngineConfig(classes=10, budget=1000, pool_size=1, deterministic=True)
    oracle = Oracle(Means().eval(), 1)
    found = Engine(oracle, attack, criterion_named("never"), config).bytes_per_image(torch.rand(1, 3, size, size))
    oracle.close()
    return found / 1e6


def rows(size: int) -> list[list[str]]:
    """Return a row per attack that needs no surrogate."""
    own = (name for name, path in NAMES["attack"].items() if not issubclass(resolve_name(path), SurrogateAttack))
    return [[f"`{name}`", f"{megabytes(name, size):.2f}"] for name in own]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=224, help="height and width, in pixels")
    options = parser.parse_args()
    table = Table("attack", "MB per image", title=f"3 x {options.size} x {options.size}")
    for row in rows(options.size):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()

"""Measures what the defenses and the engine cost, as ratios to the bare forward pass in the same run.

Usage: python benchmarks/engine.py [--seconds 6] [--threads N]

The victim is one resnet20 object throughout, with random weights, in float32 and eager mode. The bare forward pass is
taken at the best of several batch sizes and memory formats, and the attacks then run at that batch size and format,
on images that cannot be broken (judge "never"). Bare forward passes are timed before and after each other figure, and
each ratio is taken to their mean, so that a drifting machine does not favour either.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from rfdlight.attacks import RandomNoise, RayS, Square
from rfdlight.attacks.base import Attack
from rfdlight.defenses import FeatureNoise, InputNoise
from rfdlight.engine import Engine, Judge, Oracle
from rfdlight.victims.victim import Victim

SHAPE = (3, 32, 32)
ATTACKS: dict[str, type[Attack]] = {"random_noise": RandomNoise, "square": Square, "rays": RayS}
DEFENSES = {"feature_noise": FeatureNoise(sigma=0.1), "input_noise": InputNoise(sigma=0.02)}


class Unbreakable(nn.Module):
    """The victim, with the first class far above the others: images of that class cannot be broken."""

    def __init__(self, victim: nn.Module) -> None:
        super().__init__()
        self.victim = victim
        lift = torch.zeros(10)
        lift[0] = 1e6
        self.register_buffer("lift", lift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.victim(x) + self.lift


def rate(step: Callable[[], int], seconds: float) -> float:
    """Return the rows per second of a step that returns its rows, after a warm-up."""
    for _ in range(3):
        step()
    rows, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        rows += step()
    return rows / (time.perf_counter() - start)


def forward(victim: nn.Module, batch_size: int, memory_format: torch.memory_format) -> Callable[[], int]:
    """Return a step that is one forward pass."""
    victim.to(memory_format=memory_format)
    x = torch.rand(batch_size, *SHAPE).contiguous(memory_format=memory_format)

    @torch.no_grad()
    def step() -> int:
        victim(x)
        return batch_size

    return step


def attack(name: str, victim: nn.Module, batch_size: int, channels_last: bool, seconds: float) -> float:
    """Return the queries per second of an attack on images that cannot be broken."""
    deadline = [float("inf")]
    oracle = Oracle(victim, batch_size, channels_last=channels_last)
    engine = Engine(
        oracle,
        ATTACKS[name](eps=0.05),
        classes=10,
        budget=10**9,
        slots=2 * batch_size,
        judge=Judge("never"),
        deterministic=True,
        on_record=lambda record: None,
        stop=lambda: time.perf_counter() > deadline[0],
    )
    rows = 2 * batch_size
    x = torch.rand(rows, *SHAPE, generator=torch.Generator().manual_seed(0))
    engine.submit(x, torch.zeros(rows, dtype=torch.int64), [str(i) for i in range(rows)])
    for wait in (0.5, seconds):
        before, start = engine.ledger.total["attack"], time.perf_counter()
        deadline[0] = start + wait
        engine.run()
    spent = time.perf_counter() - start
    oracle.close()
    return (engine.ledger.total["attack"] - before) / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="per figure")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = timm.create_model("resnet20", num_classes=10)
    victim = Unbreakable(Victim(network, [0.5] * 3, [0.25] * 3)).eval()

    formats = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
    tried = {
        (batch_size, name): rate(forward(victim, batch_size, memory_format), options.seconds / 3)
        for name, memory_format in formats.items()
        for batch_size in (32, 64, 128, 256)
    }
    batch_size, best = max(tried, key=tried.get)
    bare = forward(victim, batch_size, formats[best])

    threads = f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"
    table = Table(title=f"resnet20, float32, {threads}")
    for column in ("what", "rows/s", "bare forward beside it", "ratio"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for (size, name), value in tried.items():
        mark = "  (best)" if (size, name) == (batch_size, best) else ""
        table.add_row(f"bare forward, {name}, batch {size}{mark}", f"{value:,.0f}", "", "")

    def measure(what: str, figure: Callable[[], float]) -> None:
        before = rate(bare, options.seconds / 2)
        value = figure()
        beside = (before + rate(bare, options.seconds / 2)) / 2
        table.add_row(what, f"{value:,.0f}", f"{beside:,.0f}", f"{value / beside:.3f}")

    for name, defense in DEFENSES.items():

        def defended(defense: FeatureNoise | InputNoise = defense) -> float:
            with defense.on(victim.victim):
                return rate(bare, options.seconds)

        measure(f"forward behind {name}", defended)
    for name in ATTACKS:

        def attacked(name: str = name) -> float:
            return attack(name, victim, batch_size, best == "channels-last", options.seconds)

        measure(f"queries of {name}", attacked)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

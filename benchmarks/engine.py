"""Measures what the defenses and the engine cost, as ratios to the bare forward pass in the same run.

Usage: python benchmarks/engine.py [--seconds 6] [--threads N] [--only square rays]

The victim is one resnet20 object throughout, with random weights, in float32 and eager mode. The bare forward pass is
taken at the best of several batch sizes and memory formats, and the attacks then run at that batch size and format,
with the criterion "never", so that none ends. Bare forward passes are timed before and after each other figure, and
each ratio is taken to their mean, so that a drifting machine does not favour either.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pkgutil import resolve_name

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from rfdlight.attacks.base import Attack
from rfdlight.core.registry import NAMES
from rfdlight.defenses import AAA, Defense, FeatureNoise, InputNoise, LogitNoise
from rfdlight.engine import Engine, EngineConfig, Oracle, OracleConfig, RunObserver, criterion_named
from rfdlight.victims.victim import Victim

SHAPE = (3, 32, 32)
DEFENSES: dict[str, Defense] = {
    "feature_noise": FeatureNoise(sigma=0.1),
    "input_noise": InputNoise(sigma=0.02),
    "logit_noise": LogitNoise(sigma=0.1),
    "aaa": AAA(),
}


def attacks() -> dict[str, Attack]:
    """Return every attack in each of its norms."""
    found: dict[str, Attack] = {}
    for name, path in sorted(NAMES["attack"].items()):
        made = resolve_name(path)
        for norm in made.norms:
            found[f"{name} {norm}"] = made(eps=0.05 if norm == "linf" else 1.0, norm=norm)
    return found


@torch.no_grad()
def images_of(victim: Victim, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return smooth images and the victim's labels of them, none of which it gives to noise.

    So every phase of an attack that starts from noise is reached. The victim's bias is set so that its labels vary.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8 * count, SHAPE[0], 4, 4, generator=generator)
    x = nn.functional.interpolate(coarse, size=SHAPE[1:], mode="bilinear", align_corners=False)
    victim.network.fc.bias -= victim(x).mean(0)
    y = victim(x).argmax(1)
    of_noise = victim(torch.rand(64, *SHAPE, generator=generator)).argmax(1).mode().values
    kept = (y != of_noise).nonzero()[:, 0]
    kept = kept.repeat(-(-count // len(kept)))[:count]
    return x[kept], y[kept]


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


class Deadline(RunObserver):
    """Ends a run at a time of `time.perf_counter`."""

    at = float("inf")

    def stop(self) -> bool:
        return time.perf_counter() > self.at


def attack(attacker: Attack, victim: Victim, batch_size: int, channels_last: bool, seconds: float) -> float:
    """Return the queries per second of an attack that no criterion ends."""
    deadline = Deadline()
    oracle = Oracle(victim, batch_size, OracleConfig(channels_last=channels_last))
    config = EngineConfig(classes=10, budget=10**9, pool_size=2 * batch_size, deterministic=True)
    engine = Engine(oracle, attacker, criterion_named("never"), config, deadline)
    rows = 2 * batch_size
    x, y = images_of(victim, rows)
    engine.submit(x, y, [str(i) for i in range(rows)])

    def asked() -> int:
        return engine.ledger.total["attack"] + engine.ledger.total["success_check"]

    for wait in (1.0, seconds):
        before, start = asked(), time.perf_counter()
        deadline.at = start + wait
        engine.run()
    spent = time.perf_counter() - start
    oracle.close()
    return (asked() - before) / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="per figure")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    parser.add_argument("--only", nargs="*", default=[], help="short names of attacks; default: all")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = timm.create_model("resnet20", num_classes=10)
    victim = Victim(network, [0.5] * 3, [0.25] * 3).eval()

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

        def defended(defense: Defense = defense) -> float:
            with defense.on(victim):
                return rate(bare, options.seconds)

        measure(f"forward behind {name}", defended)
    for name, attacker in attacks().items():
        if options.only and name.split()[0] not in options.only:
            continue

        def attacked(attacker: Attack = attacker) -> float:
            return attack(attacker, victim, batch_size, best == "channels-last", options.seconds)

        measure(f"queries of {name}", attacked)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

"""Measures what the defenses and the engine cost, as ratios to the bare forward pass in the same run.

Usage: python benchmarks/engine.py [--seconds 6] [--threads N] [--only square rays feature_noise] [--compile 64 128]

The victim is one resnet20 object throughout, with random weights, in float32. The bare forward pass is
taken at the best of several batch sizes and memory formats, and the attacks then run at that batch size and format,
with the criterion "never", so that none ends. Bare forward passes are timed before and after each other figure, and
each ratio is taken to their mean, so that a drifting machine does not favour either. With one thread, seconds are CPU
time.

With --compile, the victim is compiled for these batch sizes too. The attacks and the defended forward passes are then
compiled, at the best of them, and each figure has two ratios: to the best eager and to the best compiled forward pass.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pkgutil import resolve_name

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from rfdlight.attacks.base import Attack
from rfdlight.attacks.surrogate import SurrogateAttack
from rfdlight.core.registry import NAMES
from rfdlight.defenses import AAA, Defense, FeatureNoise, InputNoise, LogitNoise
from rfdlight.engine import Engine, EngineConfig, Oracle, OracleConfig, RunObserver, criterion_named
from rfdlight.engine.compilation import CompiledVictim, quiet_compiler
from rfdlight.victims.victim import Victim

SHAPE = (3, 32, 32)
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
DEFENSES: dict[str, Defense] = {
    "feature_noise": FeatureNoise(sigma=0.1),
    "input_noise": InputNoise(sigma=0.02),
    "logit_noise": LogitNoise(sigma=0.1),
    "aaa": AAA(),
}


def attacks(only: list[str]) -> dict[str, Attack]:
    """Return the attacks of some names, by default all that need no surrogate, in each of their norms."""
    found: dict[str, Attack] = {}
    for name, path in sorted(NAMES["attack"].items()):
        made = resolve_name(path)
        if issubclass(made, SurrogateAttack) or (only and name not in only):
            continue
        for norm in made.norms:
            found[f"{name} {norm}"] = made(eps=0.05 if norm == "linf" else 1.0, norm=norm)
    return found


def smooth_images(count: int) -> torch.Tensor:
    """Return smooth images, (count, C, H, W)."""
    coarse = torch.rand(count, SHAPE[0], 4, 4, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=SHAPE[1:], mode="bilinear", align_corners=False)


@torch.no_grad()
def resnet20() -> Victim:
    """Return a victim with random weights, whose bias is such that its labels of smooth images vary."""
    torch.manual_seed(0)
    victim = Victim(timm.create_model("resnet20", num_classes=10), [0.5] * 3, [0.25] * 3).eval()
    victim.network.fc.bias -= victim(smooth_images(512)).mean(0)
    return victim


@torch.no_grad()
def images_of(victim: Victim, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return smooth images and the victim's labels of them, none of which it gives to noise.

    So every phase of an attack that starts from noise is reached.
    """
    x = smooth_images(8 * count)
    y = victim(x).argmax(1)
    of_noise = victim(torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(1))).argmax(1).mode().values
    kept = (y != of_noise).nonzero()[:, 0]
    kept = kept.repeat(-(-count // len(kept)))[:count]
    return x[kept], y[kept]


def now() -> float:
    """Return a time in seconds: the CPU time of one thread, which other processes do not change, else the clock's."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def rate(step: Callable[[], int], seconds: float) -> float:
    """Return the rows per second of a step that returns its rows, after a warm-up."""
    for _ in range(3):
        step()
    rows, start, spent = 0, time.perf_counter(), now()
    while time.perf_counter() - start < seconds:
        rows += step()
    return rows / (now() - spent)


def forward(
    victim: nn.Module | CompiledVictim, batch_size: int, memory_format: torch.memory_format
) -> Callable[[], int]:
    """Return a step that is one forward pass."""
    module = victim.victim if isinstance(victim, CompiledVictim) else victim
    module.to(memory_format=memory_format)
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


def attack(
    attacker: Attack,
    victim: Victim,
    batch_size: int,
    channels_last: bool,
    seconds: float,
    compiled: CompiledVictim | None = None,
) -> float:
    """Return the queries per second of an attack that no criterion ends."""
    deadline = Deadline()
    oracle = Oracle(victim, batch_size, OracleConfig(channels_last=channels_last))
    config = EngineConfig(classes=10, budget=10**9, pool_size=2 * batch_size, deterministic=True)
    engine = Engine(oracle, attacker, criterion_named("never"), config, deadline)
    rows = 2 * batch_size
    x, y = images_of(victim, rows)
    if compiled is not None and not oracle.compile(x, compiled):
        raise SystemExit(f"the victim does not compile: {compiled.failure}")
    engine.submit(x, y, [str(i) for i in range(rows)])

    def asked() -> int:
        return engine.ledger.total["attack"] + engine.ledger.total["success_check"]

    for wait in (1.0, seconds):
        before, start = asked(), now()
        deadline.at = time.perf_counter() + wait
        engine.run()
    spent = now() - start
    oracle.close()
    return (asked() - before) / spent


class Bench:
    """Measures figures beside the best bare forward passes of a victim, eager and compiled."""

    def __init__(self, victim: Victim, seconds: float, compiled_rows: list[int]) -> None:
        self.victim, self.seconds = victim, seconds
        tried = {
            (batch_size, name): rate(forward(victim, batch_size, memory_format), seconds / 3)
            for name, memory_format in FORMATS.items()
            for batch_size in (32, 64, 128, 256)
        }
        self.batch_size, self.format = max(tried, key=tried.get)
        self.bare = {"best eager": forward(victim, self.batch_size, FORMATS[self.format])}
        self.compiled = CompiledVictim(victim) if compiled_rows else None
        if self.compiled is not None:
            with quiet_compiler():
                steps = {size: forward(self.compiled, size, FORMATS[self.format]) for size in compiled_rows}
                fast = {size: rate(step, seconds / 3) for size, step in steps.items()}
            self.batch_size = max(fast, key=fast.get)
            tried |= {(size, f"compiled, {self.format}"): value for size, value in fast.items()}
            self.bare["best compiled"] = steps[self.batch_size]
        threads = f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"
        self.table = Table(title=f"resnet20, float32, {threads}")
        for column in ("what", "rows/s", *(text for name in self.bare for text in (name, "ratio"))):
            self.table.add_column(column, justify="left" if column == "what" else "right")
        for (size, name), value in tried.items():
            self.table.add_row(f"bare forward, {name}, batch {size}", f"{value:,.0f}")

    def measure(self, what: str, figure: Callable[[], float]) -> None:
        """Add a figure and its ratios."""
        before, value, after = self._beside(), figure(), self._beside()
        means = [(first + last) / 2 for first, last in zip(before, after, strict=True)]
        ratios = [text for mean in means for text in (f"{mean:,.0f}", f"{value / mean:.3f}")]
        self.table.add_row(what, f"{value:,.0f}", *ratios)
        print(what, f"{value:,.0f}", *ratios, file=sys.stderr)

    def _beside(self) -> list[float]:
        return [rate(step, self.seconds / 2) for step in self.bare.values()]

    def defended(self, defense: Defense, compiled: bool) -> float:
        """Return the rows per second of the forward pass behind a defense."""
        with defense.on(self.victim), quiet_compiler():
            runs = CompiledVictim(self.victim) if compiled else self.victim
            return rate(forward(runs, self.batch_size, FORMATS[self.format]), self.seconds)

    def attacked(self, attacker: Attack) -> float:
        """Return the queries per second of an attack."""
        channels_last = self.format == "channels-last"
        return attack(attacker, self.victim, self.batch_size, channels_last, self.seconds, self.compiled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="per figure")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    parser.add_argument("--only", nargs="*", default=[], help="short names of attacks and defenses; default: all")
    parser.add_argument("--compile", type=int, nargs="*", default=[], help="batch sizes of the compiled victim")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(resnet20(), options.seconds, options.compile)
    for name, defense in DEFENSES.items():
        if not options.only or name in options.only:
            bench.measure(f"forward behind {name}", partial(bench.defended, defense, compiled=False))
            if options.compile:
                bench.measure(f"forward behind {name}, compiled", partial(bench.defended, defense, compiled=True))
    for name, attacker in attacks(options.only).items():
        bench.measure(f"queries of {name}", partial(bench.attacked, attacker))
    Console(width=120).print(bench.table)


if __name__ == "__main__":
    main()

"""Measures what the defenses and the engine cost, as ratios to the bare forward pass in the same run.

Usage: python benchmarks/engine.py [--seconds 6] [--threads N] [--only square rays feature_noise] [--compile 64 128]
       python benchmarks/engine.py --device cuda --victim resnet50 --batch 64 256 --compile 64 256 --only square

The victim is one object throughout, with random weights, in float32: resnet20 at 32 pixels, or ResNet-50 at 224. The
bare forward pass is taken at the best of several batch sizes and memory formats, and the attacks then run at that batch
size and format, with the criterion "never", so that none ends. With --batch, each of these batch sizes has a table of
its own. Bare forward passes are timed in turn with each other figure, in short slices, so that a drifting machine does
not favour either. With one thread, seconds are CPU time; on a GPU, the clock is read when it has finished.

With --compile, the victim is compiled for these batch sizes too. The attacks and the defended forward passes are then
compiled, at the best of them, and each figure has two ratios: to the best eager and to the best compiled forward pass.

With --keep FILE NAME, the table, of the last batch size, is put into a JSON file of tables.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from statistics import mean

import timm
import torch
from page_tables import add_keep, keep
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from rfdlight.attacks.base import Attack
from rfdlight.attacks.surrogate import SurrogateAttack
from rfdlight.core.quiet import quiet
from rfdlight.core.registry import NAMES
from rfdlight.defenses import AAA, Defense, FeatureNoise, InputNoise, LogitNoise
from rfdlight.engine import Engine, EngineConfig, Oracle, OracleConfig, RunObserver, criterion_named
from rfdlight.engine.compilation import CompiledVictim, inductor
from rfdlight.victims.victim import Victim

SIDES = {"resnet20": 32, "resnet50": 224}
"""Pixels of an image's side for each victim, by timm's name."""
SIZES = (32, 64, 128, 256)
SLICES = 6
"""Slices of a figure, in turn with those of the bare forward passes."""
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
DEFENSES: dict[str, Defense] = {
    "feature_noise": FeatureNoise(sigma=0.1),
    "input_noise": InputNoise(sigma=0.02),
    "logit_noise": LogitNoise(sigma=0.1),
    "aaa": AAA(),
}


Timed = Callable[[float], float]
"""Runs for some seconds, and returns how much it did per second."""


def attacks(only: list[str]) -> dict[str, Attack]:
    """Return the black-box attacks of some names, by default all that need no surrogate, in each of their norms."""
    found: dict[str, Attack] = {}
    for name, path in sorted(NAMES["attack"].items()):
        made = resolve_name(path)
        if issubclass(made, SurrogateAttack) or made.access == "gradient" or (only and name not in only):
            continue
        for norm in made.norms:
            found[f"{name} {norm}"] = made(eps=0.05 if norm == "linf" else 1.0, norm=norm)
    return found


def smooth_images(count: int, side: int) -> Tensor:
    """Return smooth images, (count, 3, side, side)."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)


@torch.no_grad()
def answers(victim: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    """Return the logits of images, in passes of 64."""
    return torch.cat([victim(part.to(device)) for part in x.split(64)])


@torch.no_grad()
def random_victim(name: str, device: torch.device) -> Victim:
    """Return a victim with random weights, whose bias is such that its labels of smooth images vary."""
    torch.manual_seed(0)
    victim = Victim(timm.create_model(name, num_classes=10), [0.5] * 3, [0.25] * 3).eval().to(device)
    victim.network.fc.bias -= answers(victim, smooth_images(64, SIDES[name]), device).mean(0)
    return victim


def images_of(victim: Victim, count: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return smooth images and the victim's labels of them, none of which it gives to noise.

    So every phase of an attack that starts from noise is reached.
    """
    x = smooth_images(min(8 * count, 512), side)
    y = answers(victim, x, device).argmax(1).cpu()
    noise = torch.rand(16, 3, side, side, generator=torch.Generator().manual_seed(1))
    kept = (y != answers(victim, noise, device).argmax(1).mode().values.cpu()).nonzero()[:, 0]
    kept = kept.repeat(-(-count // len(kept)))[:count]
    return x[kept].to(device), y[kept].to(device)


def now() -> float:
    """Return a time in seconds: the CPU time of one thread, which other processes do not change, else the clock's."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def rate(step: Callable[[], int], seconds: float) -> float:
    """Return the rows per second of a step that returns its rows, after two that warm up."""
    steps = 8 if torch.cuda.is_initialized() else 1  # a GPU gets its next passes before it has finished one
    for _ in range(2):
        step()
    rows, start, spent = 0, time.perf_counter(), now()
    while time.perf_counter() - start < seconds:
        rows += sum(step() for _ in range(steps))
        end = now()
    return rows / (end - spent)


def forward(
    victim: nn.Module | CompiledVictim, batch_size: int, side: int, memory_format: torch.memory_format
) -> Callable[[], int]:
    """Return a step that is one forward pass."""
    module = victim.victim if isinstance(victim, CompiledVictim) else victim
    module.to(memory_format=memory_format)
    device = next(module.parameters()).device
    x = torch.rand(batch_size, 3, side, side, device=device).contiguous(memory_format=memory_format)

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


def asked(engine: Engine) -> int:
    """Return the queries of an engine so far."""
    return engine.ledger.total["attack"] + engine.ledger.total["success_check"]


def compile_for(oracle: Oracle, x: Tensor, compiled: CompiledVictim | None) -> None:
    """Have an oracle use a compiled victim, if there is one, or end with the reason why it does not compile."""
    if compiled is not None and not oracle.compile(x, compiled):
        raise SystemExit(f"the victim does not compile: {compiled.failure}")


class Bench:
    """Measures figures beside the best bare forward passes of a victim, eager and compiled."""

    def __init__(
        self,
        victim: Victim,
        side: int,
        seconds: float,
        sizes: Iterable[int],
        compiled_sizes: Iterable[int],
        compiler: Callable[..., Callable[..., Tensor]] = inductor,
    ) -> None:
        self.victim, self.side, self.seconds, self.compiler = victim, side, seconds, compiler
        self.device = next(victim.parameters()).device
        tried = {
            (size, name): rate(forward(victim, size, side, memory_format), seconds / 3)
            for name, memory_format in FORMATS.items()
            for size in sizes
        }
        self.batch_size, self.format = max(tried, key=tried.get)
        self.bare = {"best eager": forward(victim, self.batch_size, side, FORMATS[self.format])}
        self.compiled = CompiledVictim(victim, compiler) if compiled_sizes else None
        if self.compiled is not None:
            with quiet():
                steps = {size: forward(self.compiled, size, side, FORMATS[self.format]) for size in compiled_sizes}
                fast = {size: rate(step, seconds / 3) for size, step in steps.items()}
            self.batch_size = max(fast, key=fast.get)
            tried |= {(size, f"compiled, {self.format}"): value for size, value in fast.items()}
            self.bare["best compiled"] = steps[self.batch_size]
        machine = f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"
        if self.device.type == "cuda":
            machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        self.title = f"{side} pixels, float32, {machine}"
        self.table = Table(title=self.title)
        for column in ("what", "rows/s", *(text for name in self.bare for text in (name, "ratio"))):
            self.table.add_column(column, justify="left" if column == "what" else "right")
        for (size, name), value in tried.items():
            self.table.add_row(f"bare forward, {name}, batch {size}", f"{value:,.0f}")

    def measure(self, what: str, figure: AbstractContextManager[Timed]) -> None:
        """Add a figure and its ratios."""
        with figure as timed:
            slices = [(timed(self.seconds / SLICES), *self.beside(self.seconds / SLICES)) for _ in range(SLICES)]
        value, *bare = (mean(rates) for rates in zip(*slices, strict=True))
        ratios = [text for each in bare for text in (f"{each:,.0f}", f"{value / each:.3f}")]
        self.table.add_row(what, f"{value:,.0f}", *ratios)
        print(what, f"{value:,.0f}", *ratios, file=sys.stderr)

    def beside(self, seconds: float) -> list[float]:
        """Return the rows per second of the bare forward passes."""
        return [rate(step, seconds) for step in self.bare.values()]

    @contextmanager
    def defended(self, defense: Defense, compiled: bool) -> Iterator[Timed]:
        """Yield a measurement of the forward pass behind a defense, in rows per second."""
        victim = deepcopy(self.victim)  # the bare forward passes stay without the defense
        with defense.on(victim), quiet():
            runs = CompiledVictim(victim, self.compiler) if compiled else victim
            yield partial(rate, forward(runs, self.batch_size, self.side, FORMATS[self.format]))

    @contextmanager
    def attacked(self, attacker: Attack) -> Iterator[Timed]:
        """Yield a measurement of an attack that no criterion ends, in queries per second."""
        deadline = Deadline()
        oracle = Oracle(self.victim, self.batch_size, OracleConfig(channels_last=self.format == "channels-last"))
        rows = 2 * self.batch_size
        config = EngineConfig(classes=10, budget=10**9, pool_size=rows, deterministic=True)
        engine = Engine(oracle, attacker, criterion_named("never"), config, deadline)
        x, y = images_of(self.victim, rows, self.side, self.device)
        compile_for(oracle, x, self.compiled)
        engine.submit(x, y, [str(i) for i in range(rows)])
        while asked(engine) < rows:  # the clean evaluations of the first seconds are no queries
            deadline.at = time.perf_counter() + 1
            engine.run()

        def timed(seconds: float) -> float:
            before, start = asked(engine), now()
            deadline.at = time.perf_counter() + seconds
            engine.run()
            return (asked(engine) - before) / (now() - start)

        yield timed
        oracle.close()

    def trace(self, attacker: Attack, path: Path) -> None:
        """Write a trace of 0.2 seconds of an attack, and print its operators and how busy the device is."""
        on_gpu = self.device.type == "cuda"
        profiler = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])])
        with self.attacked(attacker) as timed, profiler:
            timed(0.2)
        profiler.export_chrome_trace(str(path))
        kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
        share = busy(event for event in profiler.events() if event.device_type == kind)
        print(f"{self.device.type}, batch {self.batch_size}: operators run in {share:.3f} of the time")
        order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        print(profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60))


def busy(events: Iterable[FunctionEvent]) -> float:
    """Return the share of the time from the first to the last event in which at least one of them runs."""
    spans = sorted((e.time_range.start, e.time_range.end) for e in events if not e.is_user_annotation)
    run, reached = 0.0, spans[0][0]
    for start, end in spans:
        run += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return run / (reached - spans[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="per figure")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    parser.add_argument("--only", nargs="*", default=[], help="short names of attacks and defenses; default: all")
    parser.add_argument("--victim", choices=SIDES, default="resnet20")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default: cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[], help="batch sizes; default: the best of several")
    parser.add_argument("--compile", type=int, nargs="*", default=[], help="batch sizes of the compiled victim")
    parser.add_argument("--no-cuda-graphs", action="store_true", help="compile without CUDA graphs")
    parser.add_argument(
        "--trace", type=Path, default=None, help="write a trace of the first attack to FILE.json.gz, alone"
    )
    add_keep(parser)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # as in an attack's passes in float32
    victim, side = random_victim(options.victim, options.device), SIDES[options.victim]
    compiler = partial(inductor, cuda_graphs=not options.no_cuda_graphs)
    for sizes in [[size] for size in options.batch] or [SIZES]:
        compiled = [size for size in options.compile if size in sizes or not options.batch]
        bench = Bench(victim, side, options.seconds, sizes, compiled, compiler)
        if options.trace:
            bench.trace(next(iter(attacks(options.only).values())), options.trace)
        else:
            fill(bench, options.only)
            Console(width=120).print(bench.table)
            columns = bench.table.columns
            rows = [list(row) for row in zip(*(c.cells for c in columns), strict=True)]
            keep(options, title=bench.title, head=[str(c.header) for c in columns], rows=rows)


def fill(bench: Bench, only: list[str]) -> None:
    """Measure the defenses and attacks of some names, by default all."""
    for name, defense in DEFENSES.items():
        if not only or name in only:
            bench.measure(f"forward behind {name}", bench.defended(defense, compiled=False))
            if bench.compiled is not None:
                bench.measure(f"forward behind {name}, compiled", bench.defended(defense, compiled=True))
    for name, attacker in attacks(only).items():
        bench.measure(f"queries of {name}", bench.attacked(attacker))


if __name__ == "__main__":
    main()

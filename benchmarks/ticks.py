"""Counts what a forward pass of an attack's queries requires of a GPU besides the victim's work: launches and waits.

Usage: python benchmarks/ticks.py [--lines 10] [--only square rays]

A launch is an operator that computes: no view, and no new memory without contents. A wait holds Python until the device
has done all work so far: for a value that Python reads, for a result whose shape depends on values, or for a copy of
Python's numbers to the device.

The counts are made on the CPU, by the code that runs on a GPU, and depend neither on the machine nor on the number of
images. They do not show that some operators launch several kernels (a sort, an index of several tensors), what waits
inside of other operators than those of `_WAITING`, nor copies to another device by `Tensor.to`, unless to "cpu".

Each attack spends its budget on a small network. What lies between two passes belongs to the first of them; passes of
the criterion are left out. An ordinary pass follows another, and no image begins, ends, gets or loses a candidate.
The images of a pass are neighbours in the pool; where others between them wait for the criterion, each column of the
attack is also copied from the pool and back.

With --lines, the lines that launch most and all that wait in ordinary passes follow, with their counts per pass.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import rfdlight
from rfdlight.attacks import NES, Attack, Bernoulli, RandomNoise, RayS, SignHunt, Square
from rfdlight.core.tensors import free_reads
from rfdlight.defenses import LogitNoise
from rfdlight.engine import Engine, EngineConfig, Oracle, RunObserver
from rfdlight.engine.criteria.sequential import SequentialCriterion
from rfdlight.testing.small_victims import CLASSES, images, small_network

ATTACKS: dict[str, type[Attack]] = {
    "square": Square,
    "bernoulli": Bernoulli,
    "nes": NES,
    "rays": RayS,
    "signhunt": SignHunt,
    "random_noise": RandomNoise,
}
PARTS = ("victim", "ask", "tell", "attack, else", "engine", "criterion")
_ROWS = 4
_PACKAGE = Path(rfdlight.__file__).parent

_NO_WORK = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "_reshape_alias"}
_WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
_WAITING |= {"bincount", "equal"}
_CRITERIA = {file.name for file in (_PACKAGE / "engine/criteria").iterdir()}
_READING = {Tensor.tolist, Tensor.cpu}  # which dispatch nothing on the CPU; on a GPU, numpy needs them first


def is_launch(operator: torch._ops.OpOverload) -> bool:
    """Return whether an operator computes anything on the device."""
    name = operator._schema.name.removeprefix("aten::")
    # Python's own number for an assignment: on the CPU it is lifted, on a GPU it fills a tensor.
    return name == "lift_fresh" or not (operator.is_view or name in _NO_WORK)


def is_wait(operator: torch._ops.OpOverload, arguments: tuple[Any, ...]) -> bool:
    """Return whether an operator waits for the device."""
    name = operator._schema.name.removeprefix("aten::")
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):  # masks become indices by nonzero
        return any(index is not None and index.dtype == torch.bool for index in arguments[1])
    return name in _WAITING or (name == "repeat_interleave" and operator._overloadname == "Tensor")


@cache
def room(path: str) -> tuple[str, str]:
    """Return the folder of a file below rfdlight, "" elsewhere, and its name."""
    file = Path(path)
    return file.relative_to(_PACKAGE).parts[0] if file.is_relative_to(_PACKAGE) else "", file.name


def place() -> tuple[str, str]:
    """Return the part of a pass that the running code belongs to, and its line: the innermost one above `core`."""
    part, line, within_attack = "", "", set()
    frame = sys._getframe(2)
    while not part:
        folder, file = room(frame.f_code.co_filename)
        name, number, frame = frame.f_code.co_name, frame.f_lineno, frame.f_back
        if folder in ("", "core") or file == "evaluations.py":
            continue
        line = line or f"{file}:{number} {name}"
        if folder == "attacks":
            within_attack.add(name)
        elif within_attack:
            part = next((method for method in ("ask", "tell") if method in within_attack), "attack, else")
        elif folder != "engine" or name == "_answer":
            part = "victim"
        else:
            part = "criterion" if file == "criterion_step.py" or file in _CRITERIA else "engine"
    return part, line


@dataclass
class Tick:
    """The launches and waits of one pass and what follows it until the next, by part and line."""

    launches: Counter[tuple[str, str]] = field(default_factory=Counter)
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    ordinary: bool = False

    def of(self, part: str) -> int:
        """Return the launches of a part."""
        return sum(count for (own, _), count in self.launches.items() if own == part)


class _Operators(TorchDispatchMode):
    def __init__(self, ticks: Ticks) -> None:
        super().__init__()
        self.ticks = ticks

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        self.ticks.add(is_launch(operator), is_wait(operator, arguments))
        return operator(*arguments, **(options or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, ticks: Ticks) -> None:
        super().__init__()
        self.ticks = ticks

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        copies = function in (torch.tensor, torch.as_tensor) and not isinstance(arguments[0], Tensor)
        reads = function in _READING or (function is Tensor.to and "cpu" in (*arguments[1:], *options.values()))
        self.ticks.add(launch=False, wait=copies or reads)
        return function(*arguments, **options)


class Ticks(RunObserver):
    """Counts the launches and waits of an engine, pass by pass."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.engine: Engine | None = None
        self._before: tuple[list[int], list[str]] = [], []
        self._counts = False

    def run(self, engine: Engine) -> list[Tick]:
        """Run an engine whose observer this is, to the end; return its passes of queries."""
        self.engine = engine
        with free_reads.off(), _Functions(self), _Operators(self):
            engine.run()
        self.stop()
        for before, tick in zip(self.ticks[-2::-1], self.ticks[:0:-1], strict=True):
            tick.ordinary &= before.ordinary and before.of("ask") > 0
        return [tick for tick in self.ticks if tick.of("ask")]

    def stop(self) -> bool:
        """Begin a new tick; called before each pass."""
        self._counts = False
        pool = self.engine._pool
        now = pool.images.points.phase[pool.occupied].tolist(), list(pool.ids)
        if self.ticks:
            self.ticks[-1].ordinary = now == self._before
        self.ticks.append(Tick())
        self._before = now
        self._counts = True
        return False

    def add(self, launch: bool, wait: bool) -> None:
        """Count an operator or function in the present tick."""
        if self._counts and (launch or wait):
            where = place()
            self.ticks[-1].launches[where] += launch
            self.ticks[-1].waits[where] += wait


def counted(attack: Attack, budget: int, deterministic: bool = True) -> list[Tick]:
    """Return the passes of queries of a run, behind noise on the logits unless `deterministic`."""
    victim = small_network()
    x = images(64, seed=1)
    with torch.no_grad():
        top = victim(x).topk(2)
    safe = (top.values[:, 0] - top.values[:, 1]).topk(2 * _ROWS).indices  # whose attacks last
    x, y = x[safe], top.indices[safe, 0]
    noise = LogitNoise(sigma=1e-4)  # so little that no image has a candidate by chance
    ticks = Ticks()
    with nullcontext() if deterministic else noise.on(victim):
        oracle = Oracle(victim, _ROWS)
        config = EngineConfig(CLASSES, budget, 2 * _ROWS, deterministic, interim_queries=(budget // 2,))
        engine = Engine(oracle, attack, SequentialCriterion(final_evaluations=2), config, ticks)
        engine.submit(x, y, [str(i) for i in range(len(x))])
        found = ticks.run(engine)
        oracle.close()
    return found


def totals_of(ticks: list[Tick]) -> tuple[list[int], list[int]]:
    """Return the launches of each pass without the victim's, and its waits."""
    return [tick.launches.total() - tick.of("victim") for tick in ticks], [tick.waits.total() for tick in ticks]


def per_pass(values: list[int]) -> str:
    """Return the mean of some counts, and the largest if it differs."""
    mean, most = sum(values) / len(values), max(values)
    return f"{mean:.0f}" if round(mean) == most else f"{mean:.1f} ({most})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lines", type=int, default=0, help="how many lines that launch most to print")
    parser.add_argument("--only", nargs="*", default=list(ATTACKS), help="short names of attacks; default: all")
    parser.add_argument("--budget", type=int, default=60, help="queries per image")
    options = parser.parse_args()
    table = Table(title="ordinary passes: mean (largest)")
    for column in ("attack", "victim is", *PARTS, "launches", "waits", "all passes: launches", "waits"):
        table.add_column(column, justify="left" if column in ("attack", "victim is") else "right")
    for name in options.only:
        for norm in ATTACKS[name].norms:
            for kind in ("deterministic", "random"):
                attack = ATTACKS[name](eps=0.02 if norm == "linf" else 0.2, norm=norm)
                ticks = counted(attack, options.budget, kind == "deterministic")
                ordinary = [tick for tick in ticks if tick.ordinary]
                parts = [per_pass([tick.of(part) for tick in ordinary]) for part in PARTS]
                totals = [per_pass(counts) for chosen in (ordinary, ticks) for counts in totals_of(chosen)]
                table.add_row(f"{name} {norm}", kind, *parts, *totals)
                if options.lines:
                    for counts in ("waits", "launches"):
                        lines = sum((getattr(tick, counts) for tick in ordinary), Counter())
                        print(f"{counts} of {name} {norm}, {kind} victim, in ordinary passes")
                        for (part, line), count in lines.most_common(options.lines):
                            print(f"  {count / len(ordinary):6.2f}  {part:13} {line}")
    Console(width=170).print(table)


if __name__ == "__main__":
    main()

"""Compares the speed of attacks with that of the same attacks of torchattacks, foolbox and ART, on the same images.

    pip install --editable '.[bench]'
    RFDLIGHT_DATA=FOLDER python benchmarks/peers.py [--images 64] [--batch 32] [--only "square|hsja"] [--keep FILE NAME]

The victim is the undefended resnet20-cifar10, on the first test images that it classifies correctly, in linf 8/255,
with the same budget of queries for each image. A row is one image in one forward pass, as the network receives it. A
query is a row at a new point of an image that is still attacked: not adversarial before, and not out of budget. So a
row that evaluates a point again, confirms a success, belongs to a finished image or pads a pass is no query.

A peer gets the images in batches, or one by one where its attack knows no batches, and ends when all of them have
finished. Ours runs in the engine, with all images in the pool. Each figure ends after some seconds at the latest. The
time is that of the CPU with one thread, without the time that it takes to count a peer's queries. All figures are
measured in turn, round after round, with bare forward passes of the victim before and after each: eager ones in the
faster memory format, and compiled ones. The compilation and a short first run of each attack are left out.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from engine import Bench, Deadline, asked, compile_for, now
from page_tables import add_keep, keep
from peers_strength import (
    CLASSES,
    OURS,
    Call,
    Finished,
    art,
    art_norm,
    classified_correctly,
    foolbox,
    torchattacks_square,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from rfdlight import load_victim
from rfdlight.core.threat import ThreatModel
from rfdlight.engine import Engine, EngineConfig, Oracle, OracleConfig, criterion_named
from rfdlight.engine.compilation import CompiledVictim

THREAT = ThreatModel("linf", 8 / 255)


class Peer(NamedTuple):
    """A peer's attack."""

    attack: str  # ours
    name: str
    call: Call
    batched: bool = False


PEERS = (
    Peer("square", "torchattacks Square", torchattacks_square(rescaled=True), batched=True),
    Peer(
        "square",
        "ART SquareAttack",
        art("SquareAttack", lambda t, b: {"norm": art_norm(t), "eps": t.eps, "max_iter": b}),
        batched=True,
    ),
    Peer("hsja", "foolbox HopSkipJump", foolbox("HopSkipJumpAttack", lambda t: {"constraint": t.norm}), batched=True),
    Peer("hsja", "ART HopSkipJump", art("HopSkipJump", lambda t, b: {"norm": art_norm(t)})),
    Peer("signopt", "ART SignOPTAttack", art("SignOPTAttack", lambda t, b: {"targeted": False})),
    Peer("simba", "ART SimBA", art("SimBA", lambda t, b: {})),
)


class Tally:
    """Rows and queries in some seconds."""

    def __init__(self) -> None:
        self.rows = self.queries = 0
        self.seconds = 0.0


class Watched(nn.Module):
    """The victim for a batch of images: counts rows and queries, and ends the attack when all images have finished."""

    def __init__(self, victim: nn.Module, x: Tensor, y: Tensor, budget: int, tally: Tally, deadline: float) -> None:
        super().__init__()
        self.victim, self.clean, self.labels, self.budget = victim, x, y, budget
        self.tally, self.deadline = tally, deadline
        self.points: list[set[int]] = [set() for _ in range(len(x))]  # hashes of those evaluated
        self.finished = [False] * len(x)
        self.weights = torch.randint(2**62, x[0].shape, generator=torch.Generator().manual_seed(0))

    def forward(self, points: Tensor) -> Tensor:
        logits = self.victim(points)
        start = now()
        self._count(points.detach(), logits.detach())
        self.tally.seconds -= now() - start
        if all(self.finished) or time.perf_counter() > self.deadline:
            raise Finished
        return logits

    def _count(self, points: Tensor, logits: Tensor) -> None:
        images = self._images(points)
        adversarial = (logits.argmax(1) != self.labels[images]) & THREAT.contains(self.clean[images], points)
        adversarial &= ((points >= 0) & (points <= 1)).flatten(1).all(1)
        hashes = (points.contiguous().view(torch.int32).long() * self.weights).flatten(1).sum(1)
        for image, success, point in zip(images.tolist(), adversarial.tolist(), hashes.tolist(), strict=True):
            self.tally.rows += 1
            if self.finished[image] or point in self.points[image]:
                continue
            self.tally.queries += 1
            self.points[image].add(point)
            self.finished[image] = success or len(self.points[image]) == self.budget

    def _images(self, points: Tensor) -> Tensor:
        """Return the image of each row: in their order if all are there, else the nearest."""
        if len(points) == len(self.clean):
            return torch.arange(len(points))
        return torch.cdist(points.flatten(1), self.clean.flatten(1), p=torch.inf).argmin(1)


def of_peer(peer: Peer, victim: nn.Module, x: Tensor, y: Tensor, budget: int, batch: int, seconds: float) -> Tally:
    """Return what a peer's attack does until all images have finished or some seconds are over."""
    tally, start, deadline = Tally(), now(), time.perf_counter() + seconds
    step = batch if peer.batched else 1
    for i in range(0, len(x), step):
        part, labels = x[i : i + step], y[i : i + step]
        watched = Watched(victim, part, labels, budget, tally, deadline)
        with suppress(Finished):
            peer.call(watched, part, labels, THREAT, budget)
        if time.perf_counter() > deadline:
            break
    tally.seconds += now() - start
    return tally


def of_ours(
    name: str,
    victim: nn.Module,
    compiled: CompiledVictim | None,
    x: Tensor,
    y: Tensor,
    budget: int,
    batch: int,
    seconds: float,
) -> Tally:
    """Return what our attack does until all images have finished or some seconds are over."""
    oracle = Oracle(victim, batch, OracleConfig())
    compile_for(oracle, x, compiled)
    deadline, before, start = Deadline(), oracle.forwarded, now()
    deadline.at = time.perf_counter() + seconds
    config = EngineConfig(classes=CLASSES, budget=budget, pool_size=len(x), deterministic=True)
    attack = OURS[name](eps=THREAT.eps, norm=THREAT.norm)
    engine = Engine(oracle, attack, criterion_named("sequential"), config, deadline)
    engine.submit(x, y, [str(i) for i in range(len(x))])
    engine.run()
    tally = Tally()
    tally.seconds, tally.rows, tally.queries = now() - start, oracle.forwarded - before, asked(engine)
    oracle.close()
    return tally


Run = Callable[[float], Tally]
"""Runs an attack for some seconds at most."""


class Figure(NamedTuple):
    """One measurement of an attack and of the bare forward passes beside it, each per second."""

    queries: float
    rows: float
    eager: float
    compiled: float


def measure(bench: Bench, runs: dict[str, Run], rounds: int, seconds: float) -> dict[str, list[Figure]]:
    """Return the figures of each run in some rounds, after a short first run of each."""
    for run in runs.values():
        run(0.2)
    found: dict[str, list[Figure]] = {name: [] for name in runs}
    for number in range(rounds):
        before = bench.beside(bench.seconds / 2)
        for name, run in runs.items():
            torch.manual_seed(number)
            np.random.seed(number)  # the generator that peers draw from
            tally = run(seconds)
            after = bench.beside(bench.seconds / 2)
            eager, compiled = ((first + last) / 2 for first, last in zip(before, after, strict=True))
            rates = tally.queries / tally.seconds, tally.rows / tally.seconds
            found[name].append(Figure(*rates, eager, compiled))
            print(name, *(f"{value:,.0f}" for value in found[name][-1]), file=sys.stderr)
            before = after
    return found


def spread(values: Iterable[float], digits: int) -> str:
    """Return the median and, in brackets, the range of some values."""
    ordered = sorted(values)
    low, middle, high = (f"{value:,.{digits}f}" for value in (ordered[0], statistics.median(ordered), ordered[-1]))
    return f"{middle} ({low} to {high})"


HEAD = (
    "attack",
    "queries/s",
    "rows/s",
    "queries / eager forward",
    "queries / compiled forward",
    "rfdlight, compiled, / it",
)


def cells(figures: list[Figure], ours: list[Figure]) -> list[str]:
    """Return the cells of a row of the table."""
    return [
        spread((figure.queries for figure in figures), 0),
        spread((figure.rows for figure in figures), 0),
        spread((figure.queries / figure.eager for figure in figures), 2),
        spread((figure.queries / figure.compiled for figure in figures), 2),
        spread((own.queries / figure.queries for own, figure in zip(ours, figures, strict=True)), 2),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=32, help="rows per forward pass")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--budget", type=int, default=100, help="queries per image")
    parser.add_argument("--seconds", type=float, default=4.0, help="per figure, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="pattern of our attacks' names")
    add_keep(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ours = load_victim("resnet20-cifar10").eval()
    theirs = deepcopy(ours)  # its weights stay in the memory format that a peer finds
    x, y = classified_correctly(theirs, options.images)
    bench = Bench(ours, x.shape[-1], 1.0, [options.batch], [options.batch])
    runs: dict[str, Run] = {}
    ours_of: dict[str, str] = {}
    for peer in PEERS:
        if not re.search(options.only, peer.attack):
            continue
        name, eager = f"rfdlight {peer.attack}, compiled", f"rfdlight {peer.attack}, eager"
        runs |= {
            name: partial(of_ours, peer.attack, ours, bench.compiled, x, y, options.budget, options.batch),
            eager: partial(of_ours, peer.attack, ours, None, x, y, options.budget, options.batch),
            peer.name: partial(of_peer, peer, theirs, x, y, options.budget, options.batch),
        }
        ours_of |= dict.fromkeys((name, eager, peer.name), name)
    found = measure(bench, runs, options.rounds, options.seconds)
    table = Table(title=f"{options.batch} rows, {options.budget} queries, {options.rounds} rounds: median (range)")
    for column in HEAD:
        table.add_column(column, justify="left" if column == HEAD[0] else "right")
    rows = [[name, *cells(figures, found[ours_of[name]])] for name, figures in found.items()]
    for row in rows:
        row[-1] = "" if row[0] == ours_of[row[0]] else row[-1]  # a ratio to itself
        table.add_row(*row)
    keep(options, head=HEAD, rows=rows)
    Console(width=160).print(bench.table, table)


if __name__ == "__main__":
    main()

"""What it buys that processes draw their images from one store, on a set where half the images are never broken.

Usage: python benchmarks/balancing.py [--images N] [--budget QUERIES] [--repeats N]

The victim does a resnet20's work. Of the images, ordered by class, those of the first five classes break within some
ten queries and those of the last five never. One process with two threads is compared with two processes of one thread
each that draw from the store, that have the halves of the set dealt beforehand, and that have every second image, in
turn; medians over the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

MODULE = '''
import torch
from torch import nn

from rfdlight.data.sources import Images
from rfdlight.data.digits import Digits
from rfdlight.victims.cifar_resnet import resnet20


class Drawn(Digits):
    """The digits in order of class, which their ids begin with; the label is in the first pixel too."""

    def load(self, split):
        images = super().load(split)
        pixels = images.pixels.clone()
        pixels[:, 0, 0, 0] = (images.labels * 25).byte()
        ids = [f"digits/{split}/{label}-{name}" for label, name in zip(images.labels.tolist(), images.ids)]
        return Images(pixels, images.labels, ids)


class Halves(Drawn):
    """Each process has its part of the set from the beginning."""

    def share(self, finished, deal):
        rank, size = self.trainer.global_rank, self.trainer.world_size

        def part(images):
            own = range(images * rank // size, images * (rank + 1) // size)
            return (range(start, min(start + 8, own.stop)) for start in range(own.start, own.stop, 8))

        super().share(finished, part)


class Turns(Drawn):
    """Each process has every second image from the beginning."""

    def share(self, finished, deal):
        rank, size = self.trainer.global_rank, self.trainer.world_size
        super().share(finished, lambda images: (range(i, i + 1) for i in range(rank, images, size)))


class Victim(nn.Module):
    """Reads the label; of the first five classes, one answer in ten is wrong, depending on the pixels alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = resnet20(num_classes=10)

    def forward(self, x):
        label = (x[:, 0, 0, 0] * 10.2).round().long().clamp(0, 9)
        digest = (x.flatten(1).double() * torch.arange(1, x[0].numel() + 1).sqrt()).sum(1).mul(1e4).long()
        wrong = (label < 5) & (digest % 10 == 0)
        answer = torch.where(wrong, (label + 1) % 10, label)
        return nn.functional.one_hot(answer, 10) * 9.0 + 0.0 * self.network(x)
'''

WAYS = {
    "one process, two threads": ("Drawn", 1),
    "two, drawn as wanted": ("Drawn", 2),
    "two, halves": ("Halves", 2),
    "two, in turn": ("Turns", 2),
}


def measure(data: str, processes: int, images: int, budget: int) -> tuple[float, float]:
    """Return the queries per second of a run, and the seconds by which its first process ended before its last."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "skewed.py").write_text(MODULE)
        line = [
            sys.executable, "-m", "rfdlight", "test", "--attack", "random_noise", "--attack.eps", "0.004", "--data",
            f"skewed.{data}", "--data.num_images", str(images), "--model.victim", "skewed.Victim", "--model.budget",
            str(budget), "--model.batch_size", "16", "--model.sanity_checks", "false",
            "--trainer.devices", str(processes),
            "--run", "run",
        ]  # fmt: skip
        threads = {"OMP_NUM_THREADS": str(2 // processes)}
        subprocess.run(line, cwd=folder, env=os.environ | threads, stdout=subprocess.DEVNULL, check=True)
        parts = [
            [json.loads(text) for text in path.read_text().splitlines()]
            for path in (Path(folder) / "run/journal").glob("0-*.jsonl")
        ]
    last = [max(entry["time"] for entry in part if "end" not in entry) for part in parts]
    began = min(part[0]["time"] for part in parts)
    rows = sum(part[-1]["end"]["totals"]["attack"] for part in parts)
    return rows / (max(last) - began), max(last) - min(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--budget", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way, (data, processes) in WAYS.items():
            found[way].append(measure(data, processes, options.images, options.budget))
    table = Table("processes", title=f"{options.images} images, {options.budget} queries, half of them break in ten")
    for column in ("queries/s", "ratio", "idle at the end, s"):
        table.add_column(column, justify="right")
    rates = {way: statistics.median(rate for rate, _ in runs) for way, runs in found.items()}
    first = next(iter(rates.values()))
    for way, runs in found.items():
        idle = statistics.median(idle for _, idle in runs)
        table.add_row(way, f"{rates[way]:,.0f}", f"{rates[way] / first:.2f}", f"{idle:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()

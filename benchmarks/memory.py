"""What images of 224 x 224 take up in the pool, attack by attack, and the peak of the whole process.

python benchmarks/memory.py [--images 1000] [--size 224] [--attack NAME ...]

Each attack runs for a few ticks in a process of its own, on a victim that costs next to nothing. The peak is what the
process takes beyond what it took before the first image came: pool, attack, forward passes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from pkgutil import resolve_name

import torch
from torch import nn

from rfdlight.core.registry import NAMES
from rfdlight.engine import Engine, EngineConfig, Oracle, RunObserver, criterion_named

BATCH, TICKS = 32, 3


class Shrinking(nn.Module):
    """Ten logits from means over a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 49, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(x, 7).flatten(1))


class Passes(RunObserver):
    """Ends a run after so many forward passes."""

    def __init__(self, passes: int) -> None:
        self.left = passes

    def stop(self) -> bool:
        self.left -= 1
        return self.left < 0


def peak() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, images: int, size: int) -> tuple[int, int]:
    """Return bytes per image in the pool, and the peak beyond the start, in bytes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = resolve_name(NAMES["attack"][name])
    norm = made.norms[0]
    attack = made(eps=0.05 if norm == "linf" else 5.0, norm=norm)
    victim = Shrinking().eval()
    # One tick is a forward pass of BATCH rows; every image gets its clean look and TICKS queries.
    passes = Passes((1 + TICKS) * -(-images // BATCH))
    config = EngineConfig(classes=10, budget=1000, pool_size=images, deterministic=True)
    engine = Engine(Oracle(victim, BATCH), attack, criterion_named("never"), config, passes)
    per_image = engine.bytes_per_image(torch.rand(1, 3, size, size))
    start = peak()
    for first in range(0, images, BATCH):
        x = torch.rand(min(BATCH, images - first), 3, size, size)
        with torch.no_grad():
            y = victim(x).argmax(1)
        engine.submit(x, y, [f"{first + i:06d}" for i in range(len(x))])
    engine.run()
    return per_image, peak() - start


def _child(name: str, images: int, size: int, pipe: multiprocessing.connection.Connection) -> None:
    pipe.send(measure(name, images, size))


def main() -> None:
    """Measure and print one row after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="in the pool at a time")
    parser.add_argument("--size", type=int, default=224, help="height and width, in pixels")
    parser.add_argument("--attack", nargs="*", default=sorted(NAMES["attack"]), choices=sorted(NAMES["attack"]))
    chosen = parser.parse_args()
    print(f"{chosen.images} images of 3 x {chosen.size} x {chosen.size} in the pool, batches of {BATCH}")
    print(f"{'attack':14}{'MB per image':>14}{'pool, GB':>10}{'peak, GB':>10}")
    spawn = multiprocessing.get_context("spawn")
    for name in chosen.attack:
        here, there = spawn.Pipe()
        child = spawn.Process(target=_child, args=(name, chosen.images, chosen.size, there))
        child.start()
        there.close()
        per_image, highest = here.recv()
        child.join()
        pool = per_image * chosen.images
        print(f"{name:14}{per_image / 1e6:14.2f}{pool / 1e9:10.2f}{highest / 1e9:10.2f}", flush=True)


if __name__ == "__main__":
    main()

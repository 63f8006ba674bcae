"""Times one sweep in a process, in two processes and in two tasks of Ray: python benchmarks/sweep_pairs.py.

Every round runs the cells of benchmarks/sweep_pairs.yaml in each way, in a folder of its own and with one thread per
process; the next round begins with another way. Prints the wall seconds of the commands, and the ratios to the
sequential sweep of the same round, and compares the records of all sweeps: the exit status is 1 if two of them differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from reproduction_records import table

from rfdlight.errors import UserError

GRID = Path(__file__).with_suffix(".yaml")
WAYS = {
    "sequential": [],
    "`--jobs 2`": ["--jobs", "2"],
    "`--launcher ray --jobs 2`": ["--launcher", "ray", "--jobs", "2"],
}
FIRST = next(iter(WAYS))


def sweep(grid: Path, options: list[str], folder: Path) -> float:
    """Run the sweep into a folder and return its wall seconds."""
    command = [sys.executable, "-m", "rfdlight", "sweep", str(grid), "--output", str(folder), *options]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    taken = time.perf_counter() - begun
    if done.returncode:
        raise UserError(f"grid: expected every cell to run, got {(done.stderr or done.stdout).strip()[-300:]!r}")
    return taken


def records(folder: Path) -> dict[str, bytes]:
    """Return the records of a sweep by file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("records.jsonl")}


def measure(grid: Path, rounds: int, options: list[str]) -> tuple[dict[str, list[float]], int, list[str]]:
    """Return the seconds of each round by way, the number of files of records, and the files that differ."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    first, differ = None, set()
    for number in range(rounds):
        ways = list(WAYS)
        ways = ways[number % len(ways) :] + ways[: number % len(ways)]
        for way in ways:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place) / "sweep"
                seconds[way].append(sweep(grid, [*WAYS[way], *options], folder))
                found = records(folder)
            first = found if first is None else first
            differ |= {name for name in first.keys() | found.keys() if first.get(name) != found.get(name)}
            print(f"round {number + 1} of {rounds}, {way}: {seconds[way][-1]:.1f} s", file=sys.stderr)
    return seconds, len(first or {}), sorted(differ)


def ratios(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return the ratios to the sequential sweep of the same round."""
    return {
        way: [own / alone for own, alone in zip(taken, seconds[FIRST], strict=True)] for way, taken in seconds.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num_images", type=int, help="Images of each cell, for a quick look.")
    parser.add_argument("--json", type=Path, help="File for the seconds and the ratios.")
    options = parser.parse_args()
    few = [] if options.num_images is None else ["--num_images", str(options.num_images)]
    try:
        seconds, files, differ = measure(options.grid, options.rounds, few)
    except UserError as error:
        parser.error(str(error))
    compared = ratios(seconds)
    rows = [
        [
            way,
            ", ".join(f"{one:.1f}" for one in taken),
            f"{statistics.median(taken):.1f}",
            f"{statistics.median(compared[way]):.2f}",
        ]
        for way, taken in seconds.items()
    ]
    print(table(["sweep", "seconds by round", "median", "ratio, median"], rows))
    print(f"\n{files} files of records, {len(differ)} of them different: {', '.join(differ) or 'none'}")
    if options.json is not None:
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
        content = {"seconds": seconds, "ratios": compared, "files": files, "different": differ, **machine}
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())

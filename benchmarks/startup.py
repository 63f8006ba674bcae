"""Seconds of short commands and of `python -c "import torch, lightning"`, in turns: python benchmarks/startup.py.

Every command is run `--rounds` times, each time after the import that it is compared with. The table has the minimum
and the median of the seconds, and the ratio of a command to the import: the median over the pairs.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from page_tables import add_keep, keep

IMPORT = ["-c", "import torch, lightning"]
SHORT = {
    "import rfdlight": ["-c", "import rfdlight"],
    "rfdlight": ["-m", "rfdlight"],
    "--version": ["-m", "rfdlight", "--version"],
    "--help": ["-m", "rfdlight", "--help"],
    "test --help": ["-m", "rfdlight", "test", "--help"],
    "completion": ["-m", "rfdlight", "completion"],
    "tets": ["-m", "rfdlight", "tets"],
    "test --attack squere": ["-m", "rfdlight", "test", "--attack", "squere"],
    "test --model.budget x": ["-m", "rfdlight", "test", "--model.budget", "x"],
    "test --attack rays --budget 5": ["-m", "rfdlight", "test", "--attack", "rays", "--budget", "5"],
    "report RUN --budgets x": ["-m", "rfdlight", "report", "RUN", "--budgets", "x"],
}


def seconds(arguments: list[str], folder: Path) -> float:
    """Return the seconds of a process of this Python."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=Path, nargs="*", help="Run directories of a report, which is then measured too.")
    add_keep(parser)
    options = parser.parse_args()
    commands = dict(SHORT)
    if options.runs:
        commands["report RUN ..."] = ["-m", "rfdlight", "report", *(str(run.resolve()) for run in options.runs)]
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as empty:
        for arguments in (IMPORT, *commands.values()):
            seconds(arguments, Path(empty))  # files are cached from here on
        for _ in range(options.rounds):
            for name, arguments in commands.items():
                taken[name].append((seconds(IMPORT, Path(empty)), seconds(arguments, Path(empty))))
    imports = [pair[0] for pairs in taken.values() for pair in pairs]
    rows = [["`import torch, lightning`", f"{min(imports):.2f}", f"{statistics.median(imports):.2f}", "1"]]
    for name, pairs in taken.items():
        own = [pair[1] for pair in pairs]
        ratio = statistics.median(mine / other for other, mine in pairs)
        rows.append([f"`{name}`", f"{min(own):.2f}", f"{statistics.median(own):.2f}", f"{ratio:.2f}"])
    head = ["command", "minimum", "median", "ratio"]
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    keep(options, title=f"seconds, {platform.machine()}", head=head, rows=[list(row) for row in rows])


if __name__ == "__main__":
    main()

"""Times a file behind the example server and in this process: python benchmarks/server_overhead.py FILE.

The file is one that `rfdlight export` wrote. Passes of `--batch` rows on the test images of CIFAR-10 alternate between
`onnx:FILE` and `http:`, to a server of one worker on this machine. The table has the milliseconds of a pass, median and
range, and the median of the ratios of neighbouring passes.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from page_tables import add_keep, keep
from reproduction_records import table
from torch import Tensor

import rfdlight as rfd
from rfdlight.data import CIFAR10

SERVER = Path(__file__).parent.parent / "docs/examples/serve"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server accepts connections."""
    while process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"the server ended with exit status {process.returncode}")


def milliseconds(victim: Callable[[Tensor], Tensor], x: Tensor) -> float:
    begun = time.perf_counter()
    victim(x)
    return 1000 * (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--passes", type=int, default=200)
    add_keep(parser)
    options = parser.parse_args()
    x = CIFAR10().images("test").read(list(range(options.batch)))
    x = x if x.is_floating_point() else x / 255
    port = free_port()
    line = [sys.executable, "-m", "uvicorn", "--app-dir", str(SERVER), "server:app", "--log-level", "warning"]
    with subprocess.Popen([*line, "--port", str(port)], env=os.environ | {"FILE": options.file}) as process:
        try:
            wait_for(port, process)
            victims = {
                "onnx:": rfd.load_victim(f"onnx:{options.file}"),
                "http:": rfd.load_victim(f"http://127.0.0.1:{port}/"),
            }
            for victim in victims.values():
                victim(x)
            rounds = [
                {name: milliseconds(victim, x) for name, victim in victims.items()} for _ in range(options.passes)
            ]
        finally:
            process.terminate()
    head = ["victim", f"ms for {options.batch} rows, median", "range", "ratio, median"]
    rows = [cells(name, rounds) for name in victims]
    print(table(head, rows))
    keep(options, head=head, rows=rows)


def cells(name: str, rounds: list[dict[str, float]]) -> list[str]:
    """Return the row of a victim."""
    times = [each[name] for each in rounds]
    ratio = statistics.median(each[name] / each["onnx:"] for each in rounds)
    return [f"`{name}`", f"{statistics.median(times):.1f}", f"{min(times):.1f} to {max(times):.1f}", f"{ratio:.3f}"]


if __name__ == "__main__":
    main()

"""Writes the tables of docs/results/evaluations.md and docs/results/performance.md from what was measured.

Usage: python benchmarks/evaluation_tables.py RUNS [--docs docs/results] [--check]

RUNS holds the runs whose commands the pages show, as docs/results/evaluation-records.tar.xz unpacks them. The timings
are those of docs/results/performance.json, where `engine.py` and `startup.py` put them with --keep; `memory.py` and
`ticks.py` count anew, the same on every machine. With --check nothing is written, and the exit status says whether the
pages have these tables.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import memory
import optional_stopping
import ticks
from page_tables import below_commands, kept, write
from reproduction_records import table

from rfdlight.core.statistics import PairedCounts, count_pairs
from rfdlight.errors import UserError
from rfdlight.evaluation.standard import load_standard
from rfdlight.records.runs import Run, load_run
from rfdlight.reporting.grid import standing
from rfdlight.reporting.report import p_text, points, points_interval
from rfdlight.reporting.tables import ACCURACIES, side_by_side, with_interval

IN_DEMO = ("images", *(name.strip() for name in ACCURACIES.values()), "undecided images", "queries to success")
IN_DEMO += ("billed queries per image", "attack rows per image", "criterion rows per image")


def demo(runs: Path) -> str:
    """Return the runs of `make demo` side by side."""
    names = ("undefended", "defended")
    shown = [*(load_run(runs / "demo" / name, name) for name in names), load_standard(runs / "demo/standard").combined]
    rows = [[name.strip(), *cells] for name, cells in side_by_side(shown) if name.strip() in IN_DEMO]
    return table(["", *names, "standard"], rows)


def stopping(runs: Path) -> str:
    """Return what the paper's criterion and the default one say of the same images."""
    rows = optional_stopping.rows(*(load_run(runs / "stop" / name, name) for name in ("votes", "default")))
    return table(["", "paper's criterion", "defaults"], rows)


def rounding(runs: Path) -> str:
    """Return the robust accuracy under an attack in float32 and in bfloat16, and where they differ."""
    first, second = (load_run(runs / "rounding" / name, name) for name in ("float32", "bfloat16"))
    counts = paired(first, second)
    rows = [
        [run.label, with_interval(run.robust_accuracy), f"{only}"]
        for run, only in ((first, counts.only_first), (second, counts.only_second))
    ]
    return table(["precision of the attack", "robust accuracy", "images robust in this run alone"], rows) + (
        f"\n\n{counts.images} images; McNemar's exact test: p {p_text(counts.p)}."
    )


def exported(runs: Path) -> str:
    """Return the robust accuracy of a network in this process, in a file and behind a server, and the differences."""
    module, *others = (load_run(runs / "exported" / name, name) for name in ("torch", "onnx", "http"))
    rows = [["module of torch", with_interval(module.robust_accuracy), "", ""]]
    for run in others:
        counts = paired(module, run)
        difference = f"{points(counts.difference)} ({points_interval(counts.interval)})"
        rows.append([f"`{run.label}:`", with_interval(run.robust_accuracy), difference, f"{counts.p:.2f}"])
    return table(["victim", "robust accuracy", "less the module's, points", "p"], rows)


def surrogate(runs: Path) -> str:
    """Return the robust accuracy under attacks with a surrogate, behind noise and without."""
    rows = []
    for name, attack in (("1", "transfer, 1 query"), ("transfer", "transfer"), ("prgf", "prgf")):
        found = [load_run(runs / "surrogate" / f"{defense}-{name}") for defense in ("noise", "undefended")]
        rows.append([attack, str(found[0].facts.budget), *(with_interval(run.robust_accuracy) for run in found)])
    return table(["attack", "queries", "behind noise", "undefended"], rows)


def against_aaa(runs: Path) -> str:
    """Return the robust accuracy of AAA under Square, which follows its scores in four ways, and under Bernoulli."""
    rows = []
    for name in ("down", "up", "both", "sawtooth", "bernoulli"):
        attack = name if name == "bernoulli" else f"square, follow {name}"
        rows.append([attack, with_interval(load_run(runs / "aaa" / name).robust_accuracy)])
    return table(["attack", "robust accuracy"], rows)


def paired(first: Run, second: Run) -> PairedCounts:
    """Count the robust images of two runs on the same images."""
    ids = [record.id for record in first.records]
    if set(ids) != second.by_id.keys():
        raise UserError(f"runs: expected the same images in {first.label} and {second.label}")
    return PairedCounts(**count_pairs(*(standing([run], ids, None) for run in (first, second))))


def launches(name: str) -> list[list[str]]:
    """Return a row per norm of an attack: launches and waits of its passes, without noise and behind it."""
    kind = ticks.ATTACKS[name]
    rows = []
    for norm in kind.norms:
        cells = [f"`{name}` {norm}"]
        for deterministic in (True, False):
            attack = kind(eps=0.02 if norm == "linf" else 0.2, norm=norm)
            passes = [tick for tick in ticks.counted(attack, 12, deterministic) if tick.ordinary]
            cells += [f"{sum(counts) / len(counts):.1f}" for counts in ticks.totals_of(passes)]
        rows.append(cells)
    return rows


HEAD_OF_LAUNCHES = ["attack", "launches", "waits", "behind noise: launches", "waits"]
EVALUATIONS = {"stopping": stopping, "demo": demo, "exported": exported, "surrogate": surrogate, "aaa": against_aaa}


def counted() -> dict[str, str]:
    """Return the tables that are counted anew."""
    every = [row for name in ticks.ATTACKS for row in launches(name)]
    return {
        "launches": table(HEAD_OF_LAUNCHES, every),
        "memory": table(["attack", "MB per image"], memory.rows(224)),
    }


def timings(file: Path) -> dict[str, str]:
    """Return the tables of timings, each below the command that measured it."""
    return {name: below_commands(table(found["head"], found["rows"]), found) for name, found in kept(file).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a page has other tables")
    options = parser.parse_args()
    evaluations = {name: made(options.runs) for name, made in EVALUATIONS.items()}
    performance = {"rounding": rounding(options.runs), **timings(options.docs / "performance.json"), **counted()}
    pages = {"evaluations.md": evaluations, "performance.md": performance}
    return max(write(options.docs / page, tables, options.check) for page, tables in pages.items())


if __name__ == "__main__":
    sys.exit(main())

"""Draws the figures of docs/results/reproduction.md from the records of their runs.

Usage: python benchmarks/reproduction_figures.py RUNS [--figures docs/figures]

RUNS is the folder that benchmarks/reproduction.py reads.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import torch
from reproduction_records import Records

from rfdlight.analysis.measurements import Measurement
from rfdlight.analysis.plots import draw_magnitudes, draw_misled, draw_ratios
from rfdlight.reporting.plots import Curve, draw_panels, save

NOISES = {"none": "undefended", "feature": "feature noise", "input": "input noise"}


def curves(records: Records, attack: str, title: str, path: Path) -> None:
    """Draw resnet20 under an attack by the defaults, and as the paper's rules declare it."""
    panels: list[tuple[str, list[Curve]]] = []
    for rules, end in {"defaults": "", "the paper's rules": "-paper"}.items():
        runs = [records.run(f"resnet20-{noise}-{attack}{end}") for noise in NOISES]
        shown = [run.as_declared() if end else run for run in runs]
        named = zip(NOISES.values(), shown, strict=True)
        panels.append((f"{title}, {rules}", [(name, run.records, run.facts.budget) for name, run in named]))
    save(draw_panels(panels), path, ["svg"])


def measured(records: Records, analysis: str) -> list[Measurement]:
    """Return the measurements that `rfdlight analyze` stored."""
    kinds = {field.name: field.type for field in fields(Measurement)}
    return [
        Measurement(
            **{
                name: torch.tensor([float("nan") if value is None else value for value in place[name]])
                if kind == "Tensor"
                else place[name]
                for name, kind in kinds.items()
            }
        )
        for place in records.insertion_points(analysis)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"))
    options = parser.parse_args()
    records = Records(options.runs)
    for attack, title in {"square": "Square", "rays": "RayS"}.items():
        curves(records, attack, title, options.figures / f"reproduction-{attack}.svg")
    vgg19 = measured(records, "analysis-vgg19")
    draw_misled(measured(records, "analysis"), options.figures / "reproduction-layers.svg", ["svg"])
    draw_ratios(vgg19, options.figures / "reproduction-ratios.svg", ["svg"])
    draw_magnitudes(vgg19, options.figures / "reproduction-magnitudes.svg", ["svg"])


if __name__ == "__main__":
    main()

"""A grid of two victims and two attacks, one of the victims in a file of its own."""

import json
from pathlib import Path

GRID = """
common:
  data: {class_path: digits, init_args: {num_images: 4}}
  model: {budget: 4, batch_size: 3, pool_size: 3, sanity_checks: false}
axes:
  victim:
    shipped: {}
    own: {model: {victim: faulty_victim.net}}
  attack:
    square: {attack: square}
    rays: {attack: rays}
"""
VICTIM = """
import torch
from torch import nn

FAILS = False

class Net(nn.Module):
    def forward(self, x):
        if FAILS and len(x) == 3:
            raise RuntimeError("no memory\\nat all")
        return x.flatten(1)[:, :10]

net = Net
"""
CELLS = ["shipped-square", "shipped-rays", "own-square", "own-rays"]


def summary_of(cell: str) -> dict:
    return json.loads(Path("runs/grid", cell, "summary.json").read_text())


def made_at(cells=CELLS) -> dict[str, int]:
    return {cell: Path("runs/grid", cell, "summary.json").stat().st_mtime_ns for cell in cells}

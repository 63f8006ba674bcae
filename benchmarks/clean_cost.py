"""Measures what a defense costs in clean accuracy, on a whole test set, for some sigmas.

Usage: python benchmarks/clean_cost.py feature_noise 0.2 0.3 0.4 [--data cifar10] [--layers layer3] [--passes 5]

Each pass is one draw per image; the passes of every sigma start from the same seed. The interval is that of the mean
of the passes for these images and weights, 95 %, from Student's t; it is not one for a population of images.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from rfdlight.data import CIFAR10, Digits
from rfdlight.defenses import FeatureNoise, InputNoise
from rfdlight.training.export import count_correct
from rfdlight.victims.resolve import resolve_victim

DATA = {"cifar10": CIFAR10, "digits": Digits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("defense", choices=["feature_noise", "input_noise"])
    parser.add_argument("sigmas", type=float, nargs="+")
    parser.add_argument("--data", choices=DATA, default="cifar10")
    parser.add_argument("--victim", default=None, help="default: the data's")
    parser.add_argument("--layers", nargs="+", default=None, help="default: the paper's insertion point")
    parser.add_argument("--passes", type=int, default=5)
    options = parser.parse_args()

    data = DATA[options.data]()
    loaded = resolve_victim(options.victim, None, data)
    victim, told = loaded.module, loaded.description
    victim.to(memory_format=torch.channels_last)
    test = data.images("test")
    clean = count_correct(victim, test)[0] / len(test)
    table = Table(title=f"{told}; undefended {clean:.2%}")
    for column in ("defense", "clean accuracy", "drop in points", "95 % over draws"):
        table.add_column(column, justify="left" if column == "defense" else "right")
    for sigma in options.sigmas:
        noise = FeatureNoise(sigma, options.layers) if options.defense == "feature_noise" else InputNoise(sigma)
        torch.manual_seed(0)
        with noise.on(victim):
            passes = np.array([count_correct(victim, test)[0] / len(test) for _ in range(options.passes)])
        half = "-"
        if len(passes) > 1:
            scale = passes.std(ddof=1) / len(passes) ** 0.5
            half = f"+- {100 * student.ppf(0.975, len(passes) - 1) * scale:.2f}"
        table.add_row(noise.description(victim), f"{passes.mean():.2%}", f"{100 * (clean - passes.mean()):.2f}", half)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

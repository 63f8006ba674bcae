"""Chooses the attacks of the standard evaluation and their order; see benchmarks/tuning.py for the networks and images.

Usage: RFDLIGHT_DATA=FOLDER python benchmarks/standard_members.py [--images 100] [--access score] [--weights FOLDER]

Each attack runs alone with its default options and 1000 queries on every cell. The table has the images, in percent,
that it leaves, then those that all attacks leave together, and the order of the attacks: in each place the one that,
over all cells, finds the most images adversarial that those before it leave, and among equal ones the one of fewer
queries. An attack that finds none is left out.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from tuning import MARKS, cells_of, robust_after

from rfdlight.core.registry import component

CANDIDATES = {
    "score": "bernoulli bernoulli_multiscale square nes adaptive_nes signhunt parsimonious",
    "decision": "random_noise bernoulli_decision rays signflip hsja",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--eps", type=float, default=0.05)
    parser.add_argument("--access", choices=tuple(CANDIDATES), default="score")
    parser.add_argument("--cells", default="", help="pattern of the cells")
    parser.add_argument("--only", default="", help="pattern of the attacks")
    parser.add_argument("--weights", type=Path, default=Path("tuning"), help="folder of the networks, made if missing")
    options = parser.parse_args()
    cells = cells_of(options.weights, "linf", [options.eps], options.images, options.cells)
    budget = MARKS[-1]
    print(f"| attack | {' | '.join(cells)} |\n|---|{'---|' * len(cells)}")
    queries = {}
    for name in CANDIDATES[options.access].split():
        if not re.search(options.only, name):
            continue
        attack = component("attack", name)(eps=options.eps, norm="linf")
        runs = [robust_after(attack, cell.victim, cell.x, cell.y, cell.sigma)[1] for cell in cells.values()]
        queries[name] = torch.stack(runs)  # (cells, images)
        left = 100 * (queries[name] > budget).float().mean(1)
        print(f"| {name} | {' | '.join(f'{share:.0f}' for share in left)} |", flush=True)
    left = 100 * (torch.stack(list(queries.values())) > budget).all(0).float().mean(1)
    print(f"| all | {' | '.join(f'{share:.0f}' for share in left)} |")
    remains = torch.ones(len(cells), options.images, dtype=torch.bool)
    while queries:
        gains = {name: int((remains & (each <= budget)).sum()) for name, each in queries.items()}
        best = max(queries, key=lambda name: (gains[name], -int(queries[name].clamp_max(budget)[remains].sum())))
        if not gains[best]:
            break
        remains &= queries.pop(best) > budget
        after = " ".join(f"{100 * share:.0f}" for share in remains.float().mean(1))
        print(f"{best}: {gains[best]} more images, leaves {after} %", flush=True)


if __name__ == "__main__":
    main()

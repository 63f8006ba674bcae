"""Compares attacks, or options of one, on networks and on images that no reported table uses.

Two resnet8 are trained for a few minutes on CIFAR-10's training images without 2,000, one of them adversarially, and
attacked at some of these 2,000. Each is undefended, or has Gaussian noise after its last block that costs 2 points of
accuracy. Pooling and the last layer are linear, so the mean logits are those without noise: an ideal criterion looks at
them at every query, and at the end of each budget at what is submitted. The table has the images, in percent, that are
robust after 100, 300 and 1000 queries of one run with a budget of 1000, and the mean number of queries up to a success,
which counts 1000 where there is none. With `--budgets`, each number of queries is the budget of a run of its own.

A script of this folder calls `main` with its variants; its options are `--images`, `--eps`, `--norm`, `--cells PATTERN`
for columns, `--only PATTERN` for rows, `--budgets`, `--weights FOLDER` for the two networks, trained where missing, and
`--keep FILE NAME`.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from page_tables import add_keep, keep
from torch import Tensor
from torch.nn.functional import cross_entropy

from rfdlight.attacks.base import Attack
from rfdlight.core.losses import margin
from rfdlight.core.tensors import Columns, take
from rfdlight.data import CIFAR10
from rfdlight.victims.networks import create_network
from rfdlight.victims.victim import Victim

Variants = Mapping[str, Callable[..., Attack]]
"""Attacks by name, each a function of `eps` and `norm`."""

MARKS = (100, 300, 1000)
SWEEP = 20  # queries after which finished images are put away; each mark is one
NETWORKS = ("resnet8", "resnet8-at")
TRAINING_EPS = 0.05  # of the adversarially trained network, in linf


def floats(pixels: Tensor) -> Tensor:
    """Return pixels in [0, 1], from the archive's bytes or from files."""
    return pixels if pixels.is_floating_point() else pixels / 255


def ascended(victim: Victim, x: Tensor, y: Tensor, steps: int = 2) -> Tensor:
    """Return points of the ball with a large cross-entropy, from a random start."""
    points = (x + TRAINING_EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        points.requires_grad_(True)
        (gradient,) = torch.autograd.grad(cross_entropy(victim(points), y), points)
        points = points.detach() + TRAINING_EPS / 2 * gradient.sign()
        points = torch.minimum(torch.maximum(points, x - TRAINING_EPS), x + TRAINING_EPS).clamp_(0, 1)
    return points.detach()


def trained(data: CIFAR10, weights: Path, adversarially: bool) -> Victim:
    """Return the network, from the file if there is one."""
    torch.manual_seed(0)
    victim = Victim(create_network("resnet8", num_classes=10), data.mean, data.std).to(
        memory_format=torch.channels_last
    )
    if weights.is_file():
        victim.load_state_dict(torch.load(weights, weights_only=True))
        return victim.eval()
    source = data.images("train")
    batches, epochs = len(source) // 128, 3 if adversarially else 4
    optimizer = torch.optim.SGD(victim.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=epochs * batches, pct_start=0.2)
    for _ in range(epochs):
        for rows in torch.randperm(len(source))[: batches * 128].view(batches, 128).tolist():
            x = floats(source.read(rows, data.augment)).contiguous(memory_format=torch.channels_last)
            y = source.labels[rows]
            if adversarially:
                x = ascended(victim, x, y)
            optimizer.zero_grad()
            cross_entropy(victim(x), y).backward()
            optimizer.step()
            schedule.step()
    weights.parent.mkdir(parents=True, exist_ok=True)
    torch.save(victim.state_dict(), weights)
    return victim.eval()


@torch.no_grad()
def noise_of_two_points(victim: Victim, x: Tensor, y: Tensor) -> float:
    """Return the deviation of the noise per pooled feature that costs 2 points of accuracy."""
    logits, draws = victim(x), torch.randn(20, len(x), 64)
    low, high = 0.0, 4.0
    for _ in range(12):
        sigma = (low + high) / 2
        right = (logits + sigma * draws @ victim.network.fc.weight.T).argmax(2) == y
        clean = (logits.argmax(1) == y).float().mean()
        low, high = (low, sigma) if clean - right.float().mean() > 0.02 else (sigma, high)
    return low


@torch.no_grad()
def robust_after(
    attack: Attack, victim: Victim, x: Tensor, y: Tensor, sigma: float, budget: int = MARKS[-1]
) -> tuple[dict[int, int], Tensor]:
    """Return how many images are robust at the marks, and each image's number of queries, (images,) int64.

    These are the queries up to the success, of robust images one more than the budget. A success is a query in the ball
    whose mean logits are adversarial; at a mark what would be submitted counts too.
    """
    torch.manual_seed(1)
    seed = torch.arange(len(x)) + 1000
    state: Columns = {"x": x, "y": y, "seed": seed, "budget": torch.full_like(y, budget)}
    state |= {"target": torch.full_like(y, -1), **attack.init(x, y, seed)}
    lasting = tuple(state)
    remains, image = torch.ones(len(x), dtype=torch.bool), torch.arange(len(x))
    counts, queries = dict.fromkeys((mark for mark in MARKS if mark <= budget), 0), torch.zeros_like(y)
    for query in range(1, budget + 1):
        state = {name: state[name] for name in lasting}
        points = attack.ask(state)
        logits = victim(points.contiguous(memory_format=torch.channels_last))
        answer = logits + sigma * torch.randn(len(logits), 64) @ victim.network.fc.weight.T
        attack.tell(state, points, answer if attack.access == "score" else answer.argmax(1))
        queries[image[remains]] += 1
        inside = attack.threat.contains(state["x"], points)
        remains = remains & ~(inside & (margin(logits, state["y"]) < 0))
        if query % SWEEP == 0:
            state = take({name: state[name] for name in lasting}, remains.nonzero()[:, 0])
            image, remains = image[remains], remains[remains]
        if query in counts and len(remains):
            robust = margin(victim(attack.best(state)), state["y"]) >= 0
            counts[query] = int(robust.sum())
            queries[image[robust]] += query == budget
        if len(remains) == 0:
            break
    return counts, queries


class Measured(TypedDict):
    """What a cell of the table has been measured to be."""

    robust: dict[str, int]  # images after so many queries
    queries: list[int]  # of each image in the longest run, as robust_after returns them


def text(measured: Measured) -> str:
    """Return a cell of the table."""
    queries = measured["queries"]
    shares = " / ".join(f"{100 * robust / len(queries):.0f}" for robust in measured["robust"].values())
    return f"{shares} ({sum(min(count, MARKS[-1]) for count in queries) / len(queries):.0f})"


@dataclass(frozen=True)
class Cell:
    """A network, undefended or with noise, and images that it classifies correctly."""

    victim: Victim
    x: Tensor
    y: Tensor
    eps: float
    sigma: float


def cells_of(weights: Path, norm: str, radii: Sequence[float], images: int, pattern: str) -> dict[str, Cell]:
    """Return the cells whose titles match a pattern; networks that are missing in the folder are trained."""
    data = CIFAR10(validation=2000)
    held = data.images("validation")
    x, y = floats(held.read(list(range(len(held))))), held.labels
    cells = {}
    for name in NETWORKS:
        titles = {
            f"{name}, {norm} {eps}, {kind}": (eps, kind == "noise") for eps in radii for kind in ("undefended", "noise")
        }
        titles = {title: cell for title, cell in titles.items() if re.search(pattern, title)}
        if not titles:
            continue
        start = time.perf_counter()
        victim = trained(data, weights / f"{name}.pt", name.endswith("-at"))
        with torch.no_grad():
            right = (victim(x).argmax(1) == y).nonzero()[:, 0]
        sigma = noise_of_two_points(victim, x, y)
        seconds = time.perf_counter() - start
        print(f"{name}: accuracy {len(right) / len(y):.3f}, noise {sigma:.3f}, ready after {seconds:.0f} s")
        chosen = right[torch.linspace(0, len(right) - 1, images).long()]
        for title, (eps, noise) in titles.items():
            cells[title] = Cell(victim, x[chosen], y[chosen], eps, sigma if noise else 0.0)
    return cells


def main(description: str, variants: Variants) -> None:
    """Print the table of the variants, with the options of a command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.05, 0.025])
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf")
    parser.add_argument("--cells", default="", help="pattern of the columns")
    parser.add_argument("--only", default="", help="pattern of the rows")
    parser.add_argument("--budgets", action="store_true", help="a run for each number of queries")
    parser.add_argument("--weights", type=Path, default=Path("tuning"), help="folder of the networks, made if missing")
    add_keep(parser)
    options = parser.parse_args()
    cells = cells_of(options.weights, options.norm, options.eps, options.images, options.cells)
    print(f"| attack | {' | '.join(cells)} |\n|---|{'---|' * len(cells)}")
    rows: dict[str, dict[str, Measured]] = {}
    for name, make in variants.items():
        if not re.search(options.only, name):
            continue
        rows[name] = {}
        for title, cell in cells.items():
            attack = make(eps=cell.eps, norm=options.norm)
            robust: dict[str, int] = {}
            for budget in MARKS if options.budgets else MARKS[-1:]:
                counts, queries = robust_after(attack, cell.victim, cell.x, cell.y, cell.sigma, budget)
                robust |= {str(mark): counts[mark] for mark in ([budget] if options.budgets else counts)}
            rows[name][title] = {"robust": robust, "queries": queries.tolist()}
        print(f"| {name} | {' | '.join(map(text, rows[name].values()))} |", flush=True)
        keep(options, rows=rows)

"""Compares grids, rates and variants of the Bernoulli attack on a network and on images that no reported table uses.

Usage: RFDLIGHT_DATA=FOLDER python benchmarks/tune_bernoulli.py [--images 200] [--only PATTERN] [--weights FILE]

A resnet8 is trained for a few minutes on CIFAR-10's training images without 2,000, and attacked at some of these. It is
undefended, or has Gaussian noise after its last block that costs 2 points of accuracy. Pooling and the last layer are
linear, so the mean logits are those without noise: an ideal criterion looks at them at every query, and at the end of
each budget at what is submitted. The table has the images, in percent, that are robust with a budget of 100, 300 and
1000 queries, and the mean number of queries up to a success, which counts 1000 where there is none.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rfdlight.attacks import Bernoulli, Square
from rfdlight.attacks.base import Attack
from rfdlight.core import rng
from rfdlight.core.losses import margin
from rfdlight.core.tensors import Columns, per_row, take
from rfdlight.data import CIFAR10
from rfdlight.victims.networks import create_network
from rfdlight.victims.victim import Victim

BUDGET = 1000
MARKS = (100, 300, 1000)
SWEEP = 20  # queries after which finished images are put away; each mark is one


def floats(pixels: Tensor) -> Tensor:
    """Return pixels in [0, 1], from the archive's bytes or from files."""
    return pixels if pixels.is_floating_point() else pixels / 255


def trained(data: CIFAR10, weights: Path, epochs: int = 4) -> Victim:
    """Return the network, from the file if there is one."""
    torch.manual_seed(0)
    victim = Victim(create_network("resnet8", num_classes=10), data.mean, data.std).to(
        memory_format=torch.channels_last
    )
    if weights.is_file():
        victim.load_state_dict(torch.load(weights, weights_only=True))
        return victim.eval()
    source = data.images("train")
    batches = len(source) // 128
    optimizer = torch.optim.SGD(victim.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=epochs * batches, pct_start=0.2)
    for _ in range(epochs):
        for rows in torch.randperm(len(source))[: batches * 128].view(batches, 128).tolist():
            x = floats(source.read(rows, data.augment)).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            cross_entropy(victim(x), source.labels[rows]).backward()
            optimizer.step()
            schedule.step()
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
def robust_after(attack: Attack, victim: Victim, x: Tensor, y: Tensor, sigma: float) -> tuple[list[float], float]:
    """Return the shares, in percent, that are robust at the marks, and the mean number of queries without success.

    A success is a query whose mean logits are adversarial; at a mark what would be submitted counts too.
    """
    torch.manual_seed(1)
    seed = torch.arange(len(x)) + 1000
    state: Columns = {"x": x, "y": y, "seed": seed, "budget": torch.full_like(y, BUDGET)}
    state |= {"target": torch.full_like(y, -1), **attack.init(x, y, seed)}
    lasting = tuple(state)
    remains = torch.ones(len(x), dtype=torch.bool)
    shares, queries = [], 0
    for query in range(1, BUDGET + 1):
        points = attack.ask(state)
        logits = victim(points.contiguous(memory_format=torch.channels_last))
        noise = sigma * torch.randn(len(logits), 64) @ victim.network.fc.weight.T
        answer = logits + noise
        attack.tell(state, points, answer if attack.access == "score" else answer.argmax(1))
        queries += int(remains.sum())
        remains = remains & (margin(logits, state["y"]) >= 0)
        if query % SWEEP == 0:
            state = take({name: state[name] for name in lasting}, remains)
            remains = remains[remains]
        if query in MARKS:
            submitted = margin(victim(attack.best(state)), state["y"]) if len(remains) else torch.zeros(0)
            shares.append(100 * int((submitted >= 0).sum()) / len(x))
        if len(remains) == 0:
            return shares + [0.0] * (len(MARKS) - len(shares)), queries / len(x)
    return shares, queries / len(x)


class Refining(Bernoulli):
    """Cells are halved after some queries: theta is one of 32 x 32 whose cells move together at first."""

    def __init__(self, until: dict[int, int], **options: object) -> None:
        super().__init__(grid=32, **options)
        self.until = until

    def ask(self, state: Columns) -> Tensor:
        theta, step = state["theta"], state["step"]
        levels = torch.tensor([*self.until, 32])
        ends = torch.tensor(list(self.until.values()))
        level = levels[(step[:, None] >= ends).sum(1)]  # (rows,)
        place = torch.arange(32) // (32 // level[:, None]) * (32 // level[:, None])  # (rows, 32)
        mean = theta.tanh()
        fine = rng.biased_signs(state["seed"], 0, step, mean)
        rows = torch.arange(len(theta))[:, None, None, None]
        signs = fine[
            rows, torch.arange(theta.shape[1])[:, None, None], place[:, None, :, None], place[:, None, None, :]
        ]
        state["surprise"] = (signs - mean) * per_row(32 / level, mean)
        return self._point(state["x"], signs)


class Scales(Bernoulli):
    """Queries take turns between sizes of cells: theta is one per pixel, and pixels of a cell share a random number."""

    def __init__(self, levels: tuple[int, ...], **options: object) -> None:
        super().__init__(grid=32, **options)
        self.levels = levels

    def ask(self, state: Columns) -> Tensor:
        theta, step = state["theta"], state["step"]
        level = torch.tensor(self.levels)[step % len(self.levels)]  # (rows,)
        place = torch.arange(32) // (32 // level[:, None])  # (rows, 32)
        cell = (place[:, :, None] * level[:, None, None] + place[:, None, :]).flatten(1)  # (rows, 1024)
        mean = theta.tanh()
        draws = rng.words(state["seed"], 0, step, 3 * 256).view(torch.int16).view(len(theta), 3, -1)
        shared = draws.gather(2, cell[:, None].expand(-1, 3, -1)).view_as(theta)
        signs = torch.copysign(torch.ones(()), mean.mul(2**15).sub_(shared).sub_(0.5))
        state["surprise"] = (signs - mean) * per_row(32 / level, mean)
        return self._point(state["x"], signs)


class Momentum(Bernoulli):
    """Theta moves along a running mean of the moves."""

    momentum = 0.9

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        columns = super().init(x, y, seed)
        return {**columns, "velocity": torch.zeros_like(columns["theta"])}

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        before = state["theta"]
        super().tell(state, points, answer)
        move = state["theta"] - before
        state["velocity"] = self.momentum * state["velocity"] + (1 - self.momentum) * move
        state["theta"] = self._bounded(before + state["velocity"])


class Antithetic(Bernoulli):
    """Every second query mirrors the one before it, and theta moves by their difference."""

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        columns = super().init(x, y, seed)
        first = torch.zeros_like(y, dtype=torch.float32)
        return {**columns, "first": first, "drawn": torch.zeros_like(columns["theta"])}

    def ask(self, state: Columns) -> Tensor:
        odd = state["step"] % 2 == 1
        mean = state["theta"].tanh()
        even = rng.biased_signs(state["seed"], 0, state["step"] // 2, mean)
        # Of the same words: +1 where the other is -1 for a fair sign.
        mirrored = -rng.biased_signs(state["seed"], 0, state["step"] // 2, -mean)
        state["drawn"] = torch.where(per_row(odd, mean), state["drawn"], even)
        signs = torch.where(per_row(odd, mean), mirrored, even)
        state["surprise"] = torch.zeros_like(mean)
        state["half"] = torch.where(per_row(odd, mean), (mirrored - state["drawn"]) / 2, 0.0)
        return self._point(state["x"], signs)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        odd, theta = state["step"] % 2 == 1, state["theta"]
        loss = self._losses(state, answer)
        super().tell(state, points, answer)
        fall = (state["first"] - loss) / (state["variance"] + 1e-6).sqrt()
        fall = torch.where(odd & (state["step"] > 4), fall.clamp(-3, 3), 0.0)
        move = 4 * self.rate / math.sqrt(theta[0].numel()) * fall
        state["theta"] = self._bounded(theta + per_row(move, theta) * state["half"])
        state["first"] = loss


class NaturalGradient(Bernoulli):
    """The mean of each sign moves by r (s - mean): theta along the natural gradient."""

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        theta = state["theta"]
        super().tell(state, points, answer)
        mean = theta.tanh() + (state["theta"] - theta)
        state["theta"] = mean.clamp(-0.9866, 0.9866).atanh()


class FadingRate(Bernoulli):
    """The rate falls as 1 / sqrt(1 + queries / 100)."""

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        theta = state["theta"]
        fade = (1 + state["step"] / 100).rsqrt()
        super().tell(state, points, answer)
        state["theta"] = theta + per_row(fade, theta) * (state["theta"] - theta)


class Stripes(Bernoulli):
    """The first four queries, which move nothing, are vertical stripes."""

    def ask(self, state: Columns) -> Tensor:
        points = super().ask(state)
        stripes = rng.biased_signs(state["seed"], 1, state["step"], torch.zeros_like(points[:, :, 0]))
        stripes = self._point(state["x"], stripes[:, :, None].expand(points.shape))
        return torch.where(per_row(state["step"] < 4, points), stripes, points)


def variants() -> dict[str, Callable[..., Attack]]:
    """Return attacks by name, each a function of the ball."""
    found: dict[str, Callable[..., Attack]] = {
        "square": Square,
        "square, schedule 10000": partial(Square, schedule_len=10000),
    }
    for grid in (4, 8, 16, 32):
        for rate in (0.2, 0.4, 0.8, 1.6, 3.2):
            found[f"grid {grid}, rate {rate}"] = partial(Bernoulli, grid=grid, rate=rate)
    schedules = {"4 8 16 32": {4: 40, 8: 120, 16: 400}, "8 16 32": {8: 60, 16: 250}}
    for name, until in schedules.items():
        found[f"refining {name}, rate 0.8"] = partial(Refining, until, rate=0.8)
    for levels in ((8, 16, 32), (8, 32), (4, 8, 16, 32)):
        for rate in (0.4, 0.8, 1.6):
            found[f"scales {' '.join(map(str, levels))}, rate {rate}"] = partial(Scales, levels, rate=rate)
    for form in (NaturalGradient, Antithetic, Momentum, FadingRate, Stripes):
        found[f"{form.__name__}, grid 32, rate 1.6"] = partial(form, grid=32, rate=1.6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.05, 0.025])
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf")
    parser.add_argument("--cells", default="", help="pattern of the columns")
    parser.add_argument("--only", default="", help="pattern of variants")
    parser.add_argument(
        "--weights", type=Path, default=Path("tune_bernoulli.pt"), help="of the network, made if missing"
    )
    options = parser.parse_args()
    data = CIFAR10(validation=2000)
    start = time.perf_counter()
    victim = trained(data, options.weights)
    held = data.images("validation")
    x, y = floats(held.read(list(range(len(held))))), held.labels
    with torch.no_grad():
        right = (victim(x).argmax(1) == y).nonzero()[:, 0]
    sigma = noise_of_two_points(victim, x, y)
    print(f"trained in {time.perf_counter() - start:.0f} s, accuracy {len(right) / len(y):.3f}, noise {sigma:.3f}")
    chosen = right[torch.linspace(0, len(right) - 1, options.images).long()]
    cells = {
        f"eps {eps}, {'noise' if noise else 'undefended'}": (eps, noise)
        for eps in options.eps
        for noise in (0.0, sigma)
    }
    cells = {title: cell for title, cell in cells.items() if re.search(options.cells, title)}
    print(f"| attack | {' | '.join(cells)} |\n|---|{'---|' * len(cells)}")
    for name, make in variants().items():
        if not re.search(options.only, name):
            continue
        line = []
        for eps, noise in cells.values():
            shares, queries = robust_after(make(eps=eps, norm=options.norm), victim, x[chosen], y[chosen], noise)
            line.append(" / ".join(f"{share:.0f}" for share in shares) + f" ({queries:.0f})")
        print(f"| {name} | {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()

"""Compares attacks at their defaults with the same attacks of torchattacks, foolbox and ART, on the same images.

The victim is the undefended resnet20-cifar10, on the first test images that it classifies correctly. Every row that the
network receives is one query, at the clean image too. An image is adversarial from its first query on that is
misclassified and in the ball, also for attacks that minimise a distance and know no ball. The table has the images, in
percent, that are robust after 100, 300 and 1000 queries, with Wilson's 95 % interval.

The peers attack one image at a time and end with their last query. One run of a peer serves all budgets, but for rows
that name the budget: they set it as the length of a schedule. Ours get each budget in a run of its own.

    pip install --editable '.[bench]'
    RFDLIGHT_DATA=FOLDER python benchmarks/peers_strength.py --images 200 --only "square|simba"
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from page_tables import add_keep, keep
from torch import Tensor, nn
from torch.nn.functional import one_hot

from rfdlight import attacks, load_victim
from rfdlight.core.losses import margin
from rfdlight.core.norms import Norm
from rfdlight.core.statistics import wilson
from rfdlight.core.tensors import Columns
from rfdlight.core.threat import ThreatModel
from rfdlight.data import CIFAR10

BUDGETS = (100, 300, 1000)
CLASSES = 10


class Finished(BaseException):
    """Ends a peer's attack at its last query; not an Exception, which a peer may handle."""


class Counted(nn.Module):
    """The victim for one image: counts rows, and ends the attack at the first success or with the budget."""

    def __init__(self, victim: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, budget: int) -> None:
        super().__init__()
        self.victim, self.clean, self.label, self.threat, self.budget = victim, x, y, threat, budget
        self.queries = 0
        self.first = budget + 1

    @torch.no_grad()
    def forward(self, points: Tensor) -> Tensor:
        logits = self.victim(points)
        wrong = (logits.argmax(1) != self.label) & self.threat.contains(self.clean.expand_as(points), points)
        wrong &= ((points >= 0) & (points <= 1)).flatten(1).all(1)
        number = self.queries + 1 + torch.arange(len(points))
        self.queries += len(points)
        hits = number[wrong & (number <= self.budget)]
        if len(hits):
            self.first = int(hits[0])
        if len(hits) or self.queries >= self.budget:
            raise Finished
        return logits


Call = Callable[[nn.Module, Tensor, Tensor, ThreatModel, int], object]
"""Runs a peer's attack on a counted victim, an image (1, C, H, W), its label (1,), the ball and the budget."""


class Peer(NamedTuple):
    """A peer's attack."""

    attack: str  # ours
    name: str
    norms: tuple[Norm, ...]
    call: Call
    knows_budget: bool = False


def torchattacks_square(rescaled: bool = False) -> Call:
    def call(victim: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, budget: int) -> object:
        import torchattacks

        chosen = {"n_queries": budget} if rescaled else {}
        norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
        return torchattacks.Square(victim.eval(), norm=norm, eps=threat.eps, **chosen)(x, y)

    return call


class Single(nn.Module):
    """Converts points to float32: under NumPy 2, some attacks of ART 1.20.1 compute them in float64."""

    def forward(self, points: Tensor) -> Tensor:
        return points.float()


def art(name: str, options: Callable[[ThreatModel, int], dict[str, Any]]) -> Call:
    """Return a call of an attack of ART with these options besides its defaults."""

    def call(victim: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, budget: int) -> object:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        if not hasattr(np, "mat"):  # of numpy 1, in ART 1.20.1's GeoDA
            np.mat = np.asmatrix  # type: ignore[attr-defined]
        answer = nn.Softmax(1) if name == "SimBA" else nn.Identity()  # SimBA refuses logits
        network = nn.Sequential(Single(), victim, answer)
        classifier = PyTorchClassifier(
            network, nn.CrossEntropyLoss(), tuple(x.shape[1:]), CLASSES, clip_values=(0.0, 1.0), device_type="cpu"
        )
        quiet = {"verbose": False, **options(threat, budget)}
        attack = getattr(evasion, name)(classifier, **quiet)
        return attack.generate(x.numpy(), one_hot(y, CLASSES).numpy().astype(np.float32))

    return call


def art_norm(threat: ThreatModel) -> float:
    return np.inf if threat.norm == "linf" else 2


def foolbox(name: str, options: Callable[[ThreatModel], dict[str, Any]]) -> Call:
    """Return a call of an attack of foolbox with these options besides its defaults."""

    def call(victim: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, budget: int) -> object:
        import foolbox as fb

        model = fb.PyTorchModel(victim.eval(), bounds=(0, 1), device="cpu")
        return getattr(fb.attacks, name)(**options(threat)).run(model, x, fb.criteria.Misclassification(y))

    return call


BOTH: tuple[Norm, ...] = ("linf", "l2")
ROUND: tuple[Norm, ...] = ("l2",)

PEERS = (
    Peer("square", "torchattacks Square", BOTH, torchattacks_square()),
    Peer("square", "torchattacks Square, n_queries the budget", BOTH, torchattacks_square(rescaled=True), True),
    Peer("square", "ART SquareAttack", BOTH, art("SquareAttack", lambda t, b: {"norm": art_norm(t), "eps": t.eps})),
    Peer(
        "square",
        "ART SquareAttack, max_iter a third of the budget",
        BOTH,
        art("SquareAttack", lambda t, b: {"norm": art_norm(t), "eps": t.eps, "max_iter": b // 3}),
        True,
    ),
    Peer("simba", "ART SimBA", BOTH, art("SimBA", lambda t, b: {})),
    Peer("geoda", "ART GeoDA", BOTH, art("GeoDA", lambda t, b: {"norm": art_norm(t)})),
    Peer("hsja", "ART HopSkipJump", BOTH, art("HopSkipJump", lambda t, b: {"norm": art_norm(t)})),
    Peer("hsja", "foolbox HopSkipJump", BOTH, foolbox("HopSkipJumpAttack", lambda t: {"constraint": t.norm})),
    Peer("signopt", "ART SignOPTAttack", BOTH, art("SignOPTAttack", lambda t, b: {"targeted": False})),
    Peer("boundary", "ART BoundaryAttack", ROUND, art("BoundaryAttack", lambda t, b: {"targeted": False})),
    Peer("boundary", "foolbox BoundaryAttack", ROUND, foolbox("BoundaryAttack", lambda t: {})),
)


class SimBADCT(attacks.SimBA):
    """SimBA along cosines, with steps that change a value by at most eps at 32 x 32 pixels."""

    norms = ("linf",)

    def __init__(self, eps: float, **ball: Any) -> None:
        super().__init__(basis="dct", step=16 * eps, eps=eps, **ball)


OURS = {
    "square": attacks.Square,
    "simba": attacks.SimBA,
    "simba dct": SimBADCT,
    "geoda": attacks.GeoDA,
    "hsja": attacks.HSJA,
    "signopt": attacks.SignOPT,
    "boundary": attacks.Boundary,
    "random_noise": attacks.RandomNoise,
}


def firsts_of_peer(peer: Peer, victim: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, budget: int) -> list[int]:
    """Return the number of each image's first adversarial query, or one more than the budget."""
    found, ended, failed = [], 0, 0
    for i in range(len(x)):
        torch.manual_seed(i)
        np.random.seed(i)  # the generator that peers draw from
        counted = Counted(victim, x[i : i + 1], y[i : i + 1], threat, budget)
        try:
            peer.call(counted, x[i : i + 1], y[i : i + 1], threat, budget)
            ended += 1
        except Finished:
            pass
        except (AssertionError, ValueError):
            failed += 1
        found.append(counted.first)
    if ended or failed:
        print(f"{peer.name}, {threat.norm}: {ended} ended before the budget, {failed} by an error of the peer")
    return found


@torch.no_grad()
def firsts_of_ours(
    attack: attacks.Attack, victim: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, budget: int
) -> list[int]:
    """Return the number of each image's first adversarial query, or one more than the budget."""
    seed = torch.arange(len(x))
    state: Columns = {"x": x, "y": y, "seed": seed, "budget": torch.full_like(y, budget)}
    state |= {"target": torch.full_like(y, -1), **attack.init(x, y, seed)}
    lasting = tuple(state)
    never = budget + 1
    found = torch.full_like(y, never)
    rows = torch.arange(len(x))
    for query in range(1, budget + 1):
        state = {name: state[name] for name in lasting}
        points = attack.ask(state)
        logits = victim(points)
        attack.tell(state, points, logits if attack.access == "score" else logits.argmax(1))
        wrong = (margin(logits, state["y"]) < 0) & threat.contains(state["x"], points)
        found[rows[wrong & (found[rows] == never)]] = query
        if query % 20 == 0:
            remains = found[rows] == never
            rows = rows[remains]
            state = {name: state[name][remains] for name in lasting}
            if len(rows) == 0:
                break
    return found.tolist()


Firsts = dict[str, list[int]]
"""The first adversarial query of each image by the budget of the run; one more than the budget for robust images."""


def cells(firsts: Firsts) -> list[str]:
    """Return the shares that are robust after the budgets, with their intervals."""
    longest = firsts[str(BUDGETS[-1])]
    return [share(firsts.get(str(budget), longest), budget) for budget in BUDGETS]


def share(firsts: list[int], budget: int) -> str:
    """Return the share that is robust after a budget, with its interval."""
    robust = sum(first > budget for first in firsts)
    low, high = wilson(robust, len(firsts))
    return f"{100 * robust / len(firsts):.1f} % ({100 * low:.1f} to {100 * high:.1f})"


@torch.no_grad()
def classified_correctly(victim: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    """Return the first test images of CIFAR-10 that a victim classifies correctly, and their labels."""
    test = CIFAR10().images("test")
    x, y = test.read(list(range(2 * count))), test.labels[: 2 * count]
    x = x if x.is_floating_point() else x / 255
    right = (victim(x).argmax(1) == y).nonzero()[:count, 0]
    return x[right], y[right]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--norm", choices=BOTH, default="linf")
    parser.add_argument("--eps", type=float, default=None, help="default: 8/255 in linf, 0.5 in l2")
    parser.add_argument("--only", default="", help="pattern of our attacks' names")
    parser.add_argument("--rows", default="", help="pattern of the rows")
    add_keep(parser)
    options = parser.parse_args()
    threat = ThreatModel(options.norm, options.eps or {"linf": 8 / 255, "l2": 0.5}[options.norm])
    victim = load_victim("resnet20-cifar10").eval()
    x, y = classified_correctly(victim, options.images)
    rows: dict[str, Firsts] = {}

    def add(name: str, firsts: Firsts) -> None:
        rows[name] = firsts
        print(f"| {name} | {' | '.join(cells(firsts))} |", flush=True)
        keep(options, ball=f"{threat.norm} {threat.eps:.3g}", rows=rows)  # after each row, as a run takes long

    print(f"| attack at its defaults | {' | '.join(f'{budget} queries' for budget in BUDGETS)} |\n|---|---|---|---|")
    for name, make in OURS.items():
        if not re.search(options.only, name):
            continue
        if options.norm in make.norms and re.search(options.rows, f"ours {name}"):
            attack = make(eps=threat.eps, norm=threat.norm)
            add(f"`{name}`", {str(b): firsts_of_ours(attack, victim, x, y, threat, b) for b in BUDGETS})
        for peer in PEERS:
            if peer.attack != name or options.norm not in peer.norms or not re.search(options.rows, peer.name):
                continue
            runs = BUDGETS if peer.knows_budget else BUDGETS[-1:]
            add(peer.name, {str(b): firsts_of_peer(peer, victim, x, y, threat, b) for b in runs})


if __name__ == "__main__":
    main()

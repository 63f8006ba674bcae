"""Measures the figures of docs/coming-from: rows per image, robust accuracy and early ends of the peers' attacks.

    pip install --editable '.[bench]'
    python benchmarks/coming_from.py torchattacks|foolbox|art|rfdlight

The victim is resnet8-digits, undefended and behind feature noise, with 20 images, linf 0.2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

import rfdlight as rfd
from rfdlight.core.row_counter import RowCounter

EPS, QUERIES, ANSWERS = 0.2, 300, 100


class NeverWrong(nn.Module):
    """A victim that always answers class 0, with a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias + 5 * nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 10) + 0 * x.sum()


def victim() -> nn.Module:
    return rfd.load_victim("resnet8-digits").eval()


def images() -> tuple[Tensor, Tensor]:
    data = rfd.data.Digits(num_images=20)
    data.setup("test")
    ((x, y, _),) = data.test_dataloader()
    return x, y


def noise() -> rfd.FeatureNoise:
    return rfd.FeatureNoise(sigma=0.4, layers="layer*")


def rows_of(call: Callable[[], object], model: nn.Module) -> int:
    """Return the rows that a model answers during a call."""
    with RowCounter(model) as counter:
        call()
    return counter.rows


@torch.no_grad()
def right(model: nn.Module, points: Tensor, y: Tensor, answers: int = 1) -> Tensor:
    """Return whether the mean of some answers at each point has the largest logit at the label."""
    torch.manual_seed(1)
    return sum(model(points) for _ in range(answers)).argmax(1) == y


def say(what: str, value: object) -> None:
    print(f"{what}: {value}", flush=True)


def of_torchattacks() -> None:
    import torchattacks

    x, y = images()
    model, never = victim(), NeverWrong().eval()
    zeros = torch.zeros(4, dtype=torch.long)
    square = torchattacks.Square(never, eps=EPS, n_queries=QUERIES)
    say("Square, rows per image of a victim that is never wrong", rows_of(lambda: square(x[:4], zeros), never) / 4)
    say("Square, rows per misclassified image", rows_of(lambda: square(x[:4], zeros + 1), never) / 4)
    pgd = torchattacks.PGD(never, eps=EPS, alpha=0.02, steps=10)
    say("PGD of 10 steps, rows per misclassified image", rows_of(lambda: pgd(x[:4], zeros + 1), never) / 4)
    square = torchattacks.Square(model, eps=EPS, n_queries=QUERIES)
    say("Square, robust", right(model, square(x, y), y).float().mean().item())
    torch.manual_seed(0)
    points: list[Tensor] = []
    with noise().on(model):
        one_by_one = [partial(square, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
        rows = [rows_of(lambda call=call: points.append(call()), model) for call in one_by_one]
        after = right(model, torch.cat(points), y, ANSWERS)
    early = torch.tensor(rows) < QUERIES
    say("Square behind noise, images that end early", early.sum().item())
    say("of these, rows at most", max(count for count in rows if count < QUERIES))
    say("of these, right by the mean logits", (early & after).sum().item())


def of_foolbox() -> None:
    import foolbox

    x, y = images()
    net = victim()
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    starts = torch.stack([x[(y != label).nonzero()[0, 0]] for label in y])

    def robust(steps: int) -> float:
        attack = foolbox.attacks.HopSkipJumpAttack(steps=steps, constraint="linf")
        _, _, success = attack(model, x, y, starting_points=starts, epsilons=EPS)
        return 1 - success.float().mean().item()

    say("HopSkipJump of 3 steps, rows per image", rows_of(lambda: say("robust", robust(3)), net) / len(x))
    wrong = (y[:2] + 1) % 10
    others = torch.stack([x[(y != label).nonzero()[0, 0]] for label in wrong])
    attack = foolbox.attacks.HopSkipJumpAttack(steps=1, constraint="linf")
    raw, _, success = attack(model, x[:2], wrong, starting_points=others, epsilons=EPS)
    say("misclassified images: success, perturbation", (success.tolist(), (raw - x[:2]).abs().max().item()))
    torch.manual_seed(0)
    with noise().on(net):
        for _ in range(3):
            try:
                say("behind noise, robust", robust(1))
            except AssertionError as error:
                say("behind noise", repr(error))


def of_art() -> None:
    from art.attacks.evasion import SquareAttack
    from art.estimators.classification import PyTorchClassifier

    x, y = images()

    def square(model: nn.Module) -> SquareAttack:
        loss = nn.CrossEntropyLoss()
        classifier = PyTorchClassifier(model, loss, (3, 32, 32), 10, clip_values=(0.0, 1.0), device_type="cpu")
        return SquareAttack(classifier, norm=np.inf, eps=EPS, max_iter=QUERIES, verbose=False)

    model, never = victim(), NeverWrong().eval()
    zeros = np.zeros(4, dtype=int)
    rows = rows_of(lambda: square(never).generate(x[:4].numpy(), zeros), never)
    say("Square, rows per image of a victim that is never wrong", rows / 4)
    rows = rows_of(lambda: square(never).generate(x[:4].numpy(), zeros + 1), never)
    say("Square, rows per misclassified image", rows / 4)
    found: list[np.ndarray] = []
    rows = rows_of(lambda: found.append(square(model).generate(x.numpy(), y.numpy())), model)
    say("Square, rows per image", rows / len(x))
    say("Square, robust", right(model, torch.tensor(found[0]), y).float().mean().item())
    torch.manual_seed(0)
    np.random.seed(0)
    with noise().on(model):
        points = torch.tensor(square(model).generate(x.numpy(), y.numpy()))
        say("Square behind noise, robust by one answer", right(model, points, y).float().mean().item())
        say("and by the mean logits", right(model, points, y, ANSWERS).float().mean().item())


def of_rfdlight() -> None:
    for attack, budget in (("square", QUERIES), ("hsja", 1000)):
        run = rfd.evaluate(victim(), images(), attack=attack, eps=EPS, budget=budget)
        say(f"{attack}, {budget} queries, robust", run.robust_accuracy.value)
        say(f"{attack}, billed queries per image", run.queries.float().mean().item())


if __name__ == "__main__":
    torch.manual_seed(0)
    np.random.seed(0)  # the generator that ART draws from
    {"torchattacks": of_torchattacks, "foolbox": of_foolbox, "art": of_art, "rfdlight": of_rfdlight}[sys.argv[1]]()

"""Small victims, and the two ways to run an attack in a test: by hand and through the engine."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rfdlight.attacks import Attack
from rfdlight.attacks.paper import paper_behaviour, with_published_steps
from rfdlight.attacks.surrogate import SurrogateAttack
from rfdlight.engine import Engine, EngineConfig, Oracle, OracleConfig, RunObserver, SuccessCriterion, criterion_named
from rfdlight.records.records import Record
from rfdlight.testing.small_victims import CoinFlip as CoinFlip
from rfdlight.testing.small_victims import Constant as Constant
from rfdlight.testing.small_victims import images, small_network
from rfdlight.victims.cifar_resnet import CifarResNet

ENGINE_COLUMNS = ("x", "y", "target", "seed", "budget")


def others_slow(cases: Iterable[Any], *positions: int) -> list[Any]:
    """The cases of a test, of which those at other positions are slow."""
    marked = []
    for position, case in enumerate(cases):
        values = case.values if hasattr(case, "marks") else case if isinstance(case, tuple) else (case,)
        marks = [*getattr(case, "marks", ()), *([] if position in positions else [pytest.mark.slow])]
        marked.append(pytest.param(*values, id=getattr(case, "id", None), marks=marks))
    return marked


def centred_network(deep: bool = False) -> nn.Module:
    """A network with random weights whose answers vary among 5 classes: its mean logits over images are zero.

    It has two convolutions, so that tests are fast, or is a ResNet of 8 layers.
    """
    if not deep:
        return small_network()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        victim = CifarResNet(8, num_classes=5).eval()
    with torch.no_grad():
        victim.fc.bias -= victim(images(32, seed=9)).mean(0)
    return victim


class Linear(nn.Module):
    """Two classes; the margin of class 0 is w . x + offset."""

    def __init__(self, weight: Tensor, offset: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        margin = (x.double() * self.weight.double()).flatten(1).sum(1) + self.offset
        return torch.stack([margin, torch.zeros_like(margin)], 1)

    def least_margin(self, x: Tensor, eps: float) -> Tensor:
        """The exact minimum over the ball and the pixel range, one per row."""
        return self((x - eps * self.weight.sign()).clamp(0, 1))[:, 0]

    def least_radius(self, x: Tensor) -> float:
        """The exact smallest linf radius at which the one image x is misclassified."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if self.least_margin(x, middle).item() <= 0 else (middle, high)
        return high


class Mapped(nn.Module):
    """Changes the logits of another victim."""

    def __init__(self, victim: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.victim = victim
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.victim(x))


def noisy(victim: Callable[[Tensor], Tensor], deviation: float, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """The answers of a victim with Gaussian noise on the logit of class 0."""
    generator = torch.Generator().manual_seed(seed)

    def answer(points: Tensor) -> Tensor:
        logits = victim(points).float()
        logits[:, 0] += deviation * torch.randn(len(points), generator=generator)
        return logits

    return answer


class Collector(RunObserver):
    """Keeps the records of a run, which it ends after so many forward passes."""

    def __init__(self, passes: int | None = None) -> None:
        self.records: list[Record] = []
        self.passes = passes

    def on_record(self, record: Record) -> None:
        self.records.append(record)

    def stop(self) -> bool:
        if self.passes is None:
            return False
        self.passes -= 1
        return self.passes < 0


def engine_of(
    oracle: Oracle,
    attack: Attack,
    observer: RunObserver | None = None,
    criterion: SuccessCriterion | None = None,
    **options: Any,
) -> Engine:
    """An engine, by default with the sequential criterion on a deterministic victim of two classes."""
    settings = {"classes": 2, "deterministic": True, **options}
    return Engine(oracle, attack, criterion or criterion_named("sequential"), EngineConfig(**settings), observer)


class Run:
    """One run of the engine with everything that tests look at."""

    def __init__(
        self,
        victim: nn.Module,
        attack: Attack,
        x: Tensor,
        y: Tensor,
        *,
        budget: int,
        batch_size: int = 4,
        pool_size: int = 4,
        criterion: SuccessCriterion | None = None,
        deterministic: bool = True,
        order: list[int] | None = None,
        chunk: int | None = None,
        memory: float | None = None,
        **options: Any,
    ) -> None:
        self.shapes: list[tuple[int, ...]] = []
        hook = victim.register_forward_hook(lambda _, inputs, __: self.shapes.append(tuple(inputs[0].shape)))
        own = {"any_pixels": options.get("query_counting") == "paper", "least": options.get("eot", 1)}
        own["precision"] = options.pop("precision", "float32")
        self.oracle = Oracle(victim, batch_size, OracleConfig(**own), options.pop("message", lambda line: None))
        self.observer = Collector()
        classes = victim(x[:1]).shape[1]
        if attack.targeted and attack.needs_starting_point:
            options.setdefault("starting_points", labelled(victim, x.shape[1:]))
        self.shapes.clear()
        self.oracle.counter.rows = 0
        options |= {"classes": classes, "budget": budget, "pool_size": pool_size, "deterministic": deterministic}
        self.engine = engine_of(self.oracle, attack, self.observer, criterion, **options)
        if memory is not None:
            self.engine.bound_memory(memory, x[:1])
        order = order or list(range(len(x)))
        chunk = chunk or len(order)
        for start in range(0, len(order), chunk):
            part = order[start : start + chunk]
            self.engine.submit(x[part], y[part], [f"test/{i:04d}" for i in part])
            self.engine.run(low_watermark=pool_size)
        self.engine.run()
        self.oracle.close()
        hook.remove()
        self.records = sorted(self.observer.records, key=lambda record: record.id)
        assert [record.id for record in self.records] == [f"test/{i:04d}" for i in sorted(order)]

    @property
    def total(self) -> dict[str, int]:
        return self.engine.ledger.total

    def column(self, name: str) -> Tensor:
        return torch.tensor([getattr(record, name) for record in self.records])


def required(kind: type[Attack]) -> dict[str, Any]:
    """The options without which an attack of a kind cannot be made: its surrogate."""
    return {"surrogate": small_network()} if issubclass(kind, SurrogateAttack) else {}


def counted(attack: Attack, query_counting: str) -> Attack:
    """The attack with the steps that it takes under a query counting."""
    return with_published_steps(attack) if query_counting == "paper" else attack


def takes_published_steps(attack: Attack) -> bool:
    """Whether an attack takes steps of published code that are not ours."""
    steps = paper_behaviour(attack).steps
    return steps is not None and isinstance(attack, steps)


@torch.no_grad()
def labelled(
    victim: nn.Module, shape: tuple[int, ...] = (3, 16, 16), count: int = 64, seed: int = 77
) -> tuple[Tensor, Tensor]:
    """Images with the labels that the victim gives them; by default those for targeted attacks to start from."""
    x = images(count, tuple(shape), seed)
    return x, victim(x).argmax(1)


def next_classes(victim: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """For images of labels y, of 5 classes: the class after each as its target, and a starting point of that class."""
    starting_points, classes = labelled(victim, tuple(x.shape[1:]))
    target = (y + 1) % 5
    return target, starting_points[(classes == target[:, None]).long().argmax(1)]


def one_by_one(victim: nn.Module) -> Callable[[Tensor], Tensor]:
    """Answer each row in a forward pass of its own, so that rounding cannot depend on the batch.

    The victim is deterministic: a point that an attack and its reference both query is forwarded once.
    """
    known: dict[bytes, Tensor] = {}

    def logits(point: Tensor) -> Tensor:
        key = point.numpy().tobytes()
        if key not in known:
            known[key] = victim(point[None]).float()
        return known[key]

    def answer(points: Tensor) -> Tensor:
        if points.requires_grad:
            return torch.cat([victim(point[None]) for point in points]).float()
        with torch.no_grad():
            return torch.cat([logits(point) for point in points])

    return answer


def told(
    attack: Attack, answer: Callable[[Tensor], Tensor], state: dict[str, Tensor], points: Tensor
) -> tuple[Tensor, Tensor]:
    """The logits at some points, and what an attack learns from them."""
    if attack.access != "gradient":
        logits = answer(points)
        return logits, logits.argmax(1) if attack.access == "decision" else logits
    asked = points.clone().requires_grad_()
    logits = answer(asked)
    (gradient,) = torch.autograd.grad(attack.objective(state, logits).sum(), asked)
    return logits.detach(), gradient


def start(
    attack: Attack,
    x: Tensor,
    y: Tensor,
    seed: Tensor,
    budget: int,
    target: Tensor | None = None,
    starting_points: Tensor | None = None,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Open a state as the engine does; also returns the names of the attack's columns."""
    own = attack.init(x, y, seed)
    state = {"x": x.clone(), "y": y.clone(), "seed": seed.clone(), "budget": torch.full_like(y, budget), **own}
    state["target"] = torch.full_like(y, -1) if target is None else target.clone()
    if starting_points is not None:
        state["start"] = starting_points.clone()
    return state, tuple(own)


def drive(
    attack: Attack,
    answer: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    budget: int,
    steps: int | None = None,
    seed: Tensor | None = None,
    saved: bool = False,
    target: Tensor | None = None,
    starting_points: Tensor | None = None,
) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor, dict[str, Tensor]]]:
    """Run an attack without the engine.

    Only the columns last from one tick to the next, as in the engine; with `saved`, they go through a
    file in between. A targeted attack needs `target`, and `starts` if it starts from images of that class.

    Yields:
        The columns before the query, the points, the logits, and the columns after it.
    """
    seed = torch.arange(len(x)) + 100 if seed is None else seed
    state, names = start(attack, x, y, seed, budget, target, starting_points)
    shared = (*ENGINE_COLUMNS, "start") if starting_points is not None else ENGINE_COLUMNS
    for _ in range(budget if steps is None else steps):
        if saved:
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        before = {name: column.clone() for name, column in state.items()}
        points = attack.ask(state)
        logits, learnt = told(attack, answer, state, points)
        attack.tell(state, points, learnt)
        state = {name: state[name] for name in (*shared, *names)}
        yield before, points.clone(), logits, {name: column.clone() for name, column in state.items()}

"""When memory runs out, forward passes become smaller and the run goes on."""

import pytest
import torch
from harness import Linear, Run, images, others_slow
from torch import nn

from rfdlight.attacks import PGD, RandomNoise, RayS
from rfdlight.engine import Oracle, criterion_named
from rfdlight.engine.failures import OutOfMemory
from rfdlight.engine.probe import probe
from rfdlight.errors import UserError

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4"
)
ERRORS = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), RuntimeError(CPU), MemoryError()]


class Tight(nn.Module):
    """A victim whose memory is too small for so many rows, of a pass or of its gradient, after so many passes."""

    def __init__(self, rows, error=ERRORS[0], after=0, backward=False):
        super().__init__()
        self.victim = Linear(torch.linspace(-1, 1, 48).view(3, 4, 4), 0.1)
        self.rows, self.error, self.left, self.backward = rows, error, after, backward

    def forward(self, x):
        self.left -= 1
        if self.left < 0 and len(x) > self.rows:
            if not self.backward:
                raise self.error
            x.register_hook(self.fail) if x.requires_grad else None
        return self.victim(x)

    def fail(self, gradient):
        raise self.error


X = images(10, (3, 4, 4))
with torch.no_grad():
    Y = Tight(100)(X).argmax(1)


def run(attack, victim, **options):
    lines = []
    options = {"budget": 12, "batch_size": 8, "pool_size": 10, "message": lines.append, **options}
    found = Run(victim, attack, X, Y, **options)
    found.engine.ledger.check(found.oracle.forwarded)
    return found, [int(line.removeprefix("memory ran out: forward passes of ").split()[0]) for line in lines]


@pytest.mark.parametrize(
    ("attack", "eot", "deterministic"),
    others_slow(
        [
            (RandomNoise(eps=0.05), 1, True),
            (RayS(eps=0.05), 2, False),
            (PGD(eps=0.05, steps=4), 2, True),
            (PGD(eps=0.05, steps=4), 1, False),
        ],
        1,
        2,
    ),
)
def test_smaller_passes_have_the_same_records(attack, eot, deterministic):
    options = {
        "eot": eot,
        "deterministic": deterministic,
        "criterion": criterion_named("sequential", 40),
    }
    plain, none = run(attack, Tight(8), **options)
    small, smaller = run(attack, Tight(3, after=3), **options)
    assert (none, smaller) == ([], [4, 2])
    assert {shape[0] for shape in small.shapes} == {8, 2}
    assert small.oracle.batch_size == 2
    assert small.records == plain.records


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_way_to_run_out_of_memory_is_known(error):
    found, smaller = run(RandomNoise(eps=0.05), Tight(5, error, after=1))
    assert smaller == [4]
    assert len(found.records) == 10


def test_a_gradient_may_need_more_memory_than_the_pass():
    plain, _ = run(PGD(eps=0.05, steps=4), Tight(8))
    small, smaller = run(PGD(eps=0.05, steps=4), Tight(4, backward=True))
    assert smaller == [4]
    # The pass whose gradient did not fit was seen by the hook.
    assert sum(small.total.values()) == sum(shape[0] for shape in small.shapes)
    assert small.records == plain.records


def test_the_batch_itself_may_be_more_than_there_is(monkeypatch):
    allocate, sizes = torch.zeros, []

    def few(shape, *args, **kwargs):
        if isinstance(shape, tuple) and len(shape) == 4:
            sizes.append(shape[0])
            if shape[0] > 3:
                raise ERRORS[0]
        return allocate(shape, *args, **kwargs)

    oracle = Oracle(Tight(100), 8)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", few)
        for _ in range(2):
            with pytest.raises(OutOfMemory):
                oracle.scores(X[:2], torch.zeros(2, dtype=torch.int64), "attack")
        assert len(oracle.scores(X[:2], torch.zeros(2, dtype=torch.int64), "attack")) == 2
    assert sizes == [8, 4, 2]


def test_a_pass_is_never_smaller_than_a_query():
    found, smaller = run(RandomNoise(eps=0.05), Tight(4, after=2), eot=3, batch_size=5, budget=9)
    assert smaller == [3]
    assert len(found.records) == 10
    with pytest.raises(UserError, match=r"^memory ran out in a forward pass of 3 rows; lower model\.eot$"):
        run(RandomNoise(eps=0.05), Tight(2, after=2), eot=3, batch_size=5, budget=9)


def test_where_one_image_does_not_fit_the_run_ends_with_what_to_lower():
    text = r"^memory ran out in a forward pass of 1 rows; lower data\.size, or take a smaller victim$"
    with pytest.raises(UserError, match=text):
        run(RandomNoise(eps=0.05), Tight(0, after=1))


def test_the_first_look_at_the_victim_becomes_smaller_too():
    oracle = Oracle(Tight(3), 8)
    assert not probe(oracle, X).random
    assert oracle.batch_size == 2
    assert oracle.forwarded == 8


def test_other_runtime_errors_are_not_taken_for_it():
    with pytest.raises(UserError, match=r"^the victim raised RuntimeError: can't allocate a name$"):
        run(RandomNoise(eps=0.05), Tight(3, RuntimeError("can't allocate a name"), after=1))

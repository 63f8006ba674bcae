"""AAA: against a reference that takes one row at a time, and what it must do to margins, labels and neighbours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rfdlight.defenses import AAA
from rfdlight.defenses.aaa import _Adam
from rfdlight.errors import UserError


def random_logits(rows: int, classes: int = 10, std: float = 3.0) -> Tensor:
    return std * torch.randn(rows, classes, generator=torch.Generator().manual_seed(0))


def margins(logits: Tensor) -> Tensor:
    first, second = logits.topk(2).values.unbind(1)
    return first - second


def ladder(values: Tensor) -> Tensor:
    """Rows of ten logits with these margins, between a first class and a second that leads the rest by 1."""
    rows = torch.tensor([0.0, 0, -1, -2, -2.5, -3, -1.5, -4, -2, -1]).repeat(len(values), 1)
    rows[:, 0] = values
    return rows


def reference(row: list[float], kind: str, period: float, beta: float, weight: float, lr: float, temperature: float):
    """The whole of Adam for one row, in Python's numbers."""

    def softmax(values: list[float]) -> list[float]:
        powers = [math.exp(value - max(values)) for value in values]
        return [power / sum(powers) for power in powers]

    ranked = sorted(row, reverse=True)
    confidence, label = max(softmax([value / temperature for value in row])), row.index(ranked[0])
    margin = ranked[0] - ranked[1]
    low = 0.0
    while low + period <= margin:
        low += period
    centre = low + period / 2
    if kind == "linear":
        target = centre - beta * (margin - centre)
    else:
        target = margin - 0.7 * period * math.sin(math.pi * (1 - 2 * (margin - centre) / period))

    z, mean, square = list(row), [0.0] * len(row), [0.0] * len(row)
    for step in range(1, 101):
        order = sorted(range(len(z)), key=lambda k: -z[k])
        gap = z[order[0]] - z[order[1]] - target
        p = softmax(z)
        off = p[label] - confidence
        for k in range(len(z)):
            of_margin = math.copysign(1, gap) * ((k == order[0]) - (k == order[1])) if gap else 0.0
            of_confidence = math.copysign(1, off) * p[label] * ((k == label) - p[k]) if off else 0.0
            gradient = of_margin + weight * of_confidence
            mean[k] = 0.9 * mean[k] + 0.1 * gradient
            square[k] = 0.999 * square[k] + 0.001 * gradient**2
        for k in range(len(z)):
            unbiased = mean[k] / (1 - 0.9**step), square[k] / (1 - 0.999**step)
            z[k] -= lr * unbiased[0] / (math.sqrt(unbiased[1]) + 1e-8)
    return z


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "linear", "period": 6.0, "beta": 1.0, "weight": 5.0, "lr": 0.1, "temperature": 1.0},
        {"kind": "sine", "period": 6.0, "beta": 1.0, "weight": 5.0, "lr": 0.1, "temperature": 1.0},
        {"kind": "linear", "period": 4.0, "beta": 0.7, "weight": 3.0, "lr": 0.05, "temperature": 1.3},
    ],
    ids=["linear", "sine", "other options"],
)
def test_every_row_is_the_reference_run_on_that_row(options):
    logits = torch.cat([random_logits(4, 5), random_logits(4, 5, std=8.0)]).double()
    expected = [reference(row, **options) for row in logits.tolist()]
    changed = AAA(**options).transform(logits, 0)
    torch.testing.assert_close(changed, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rows", "classes"), [(37, 11), (13, 1000)])
def test_a_row_alone_is_bit_for_bit_the_row_in_a_batch(rows, classes):
    logits = random_logits(rows, classes)
    together = AAA().transform(logits, 0)
    for row in (0, rows // 2, rows - 1):
        assert torch.equal(AAA().transform(logits[row : row + 1], 0)[0], together[row])


def test_another_neighbour_changes_nothing():
    logits = random_logits(8)
    other = logits.clone()
    other[1:] = 100 * random_logits(9)[2:]
    assert torch.equal(AAA().transform(logits, 0)[0], AAA().transform(other, 0)[0])


def test_a_shift_of_all_logits_shifts_the_answer():
    logits = random_logits(100).double()
    shifted = AAA().transform(logits + 8, 0) - 8
    torch.testing.assert_close(shifted, AAA().transform(logits, 0), rtol=0, atol=1e-6)


def test_the_linear_margin_falls_inside_an_interval_where_the_models_margin_rises():
    # Away from the lower end of the first interval, which a hundred steps do not reach.
    for start, end in ((1.6, 5.3), (6.4, 11.7)):
        into = torch.arange(start, end, 0.3)
        out = margins(AAA().transform(ladder(into), 0))
        slope = out.diff() / 0.3
        assert float(slope.max()) < 0
        assert float(slope.mean()) == pytest.approx(-1, abs=0.15)
    assert float(margins(AAA(beta=0.0).transform(ladder(into), 0)).diff().abs().max()) < 0.15


def test_the_target_runs_backwards_through_every_interval():
    into = torch.tensor([0.5, 3.0, 5.5, 6.5, 9.0, 11.5])
    assert AAA().target(into).tolist() == [5.5, 3.0, 0.5, 11.5, 9.0, 6.5]
    # The sine is 0 at the ends and the centre of (0, 4), and 1 or -1 between.
    sine = AAA("sine", period=4.0).target(torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(sine, torch.tensor([1 + 2.8, 2.0, 3 - 2.8]))


def test_margin_zero_belongs_to_the_first_interval():
    assert float(AAA().target(torch.zeros(1))) == 6.0
    assert float(AAA("sine").target(torch.zeros(1))) == pytest.approx(0, abs=1e-5)
    changed = AAA().transform(torch.tensor([[1.0, 1.0, -3.0]]), 0)
    assert float(margins(changed)) > 0.5


def test_the_confidence_is_kept_by_the_weight():
    logits = random_logits(200)
    label = logits.argmax(1, keepdim=True)

    def moved(defense: AAA) -> float:
        after = defense.transform(logits, 0).softmax(1).gather(1, label)
        return float((after - logits.softmax(1).gather(1, label)).abs().mean())

    assert moved(AAA()) < 0.1
    assert moved(AAA(weight=0.0)) > 2 * moved(AAA())


def test_the_temperature_sets_the_confidence():
    row = ladder(torch.tensor([4.5]))
    hot = AAA(temperature=2.0).transform(row, 0).softmax(1)[0, 0]
    assert float(hot) == pytest.approx(float((row / 2).softmax(1)[0, 0]), abs=0.05)
    assert float(row.softmax(1)[0, 0] - hot) > 0.2


def test_labels_of_well_separated_logits_are_kept():
    logits = random_logits(1000)
    logits = logits[margins(logits) > 0.5]
    assert len(logits) > 500
    assert torch.equal(AAA().transform(logits, 0).argmax(1), logits.argmax(1))


def test_it_is_deterministic_and_draws_nothing():
    logits = random_logits(8)
    state = torch.get_rng_state()
    assert torch.equal(AAA().transform(logits, 0), AAA().transform(logits, 0))
    assert torch.equal(torch.get_rng_state(), state)
    assert not AAA().is_random


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 10)).eval()


def test_it_answers_the_same_with_and_without_autograd(network):
    x = 3 * random_logits(6, 12).view(6, 3, 2, 2)
    expected = AAA().transform(network(x).detach(), 0)
    with AAA().on(network):
        with_grad = network(x)
        with torch.no_grad():
            without = network(x)
        with torch.inference_mode():
            inference = network(x)
    assert torch.equal(with_grad, expected)
    assert torch.equal(without, expected)
    assert torch.equal(inference, expected)
    assert not without.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_white_box_gradient_passes_as_through_the_identity(network):
    x = random_logits(6, 12).requires_grad_()
    (plain,) = torch.autograd.grad(network(x)[:, 3].sum(), x)
    with AAA().on(network):
        (through,) = torch.autograd.grad(network(x)[:, 3].sum(), x)
    assert torch.equal(through, plain)


def test_under_autocast_it_computes_in_float32_and_answers_in_the_networks_dtype(network):
    x = random_logits(6, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = network(x)
        with AAA().on(network):
            changed = network(x)
    assert changed.dtype == logits.dtype == torch.bfloat16
    assert torch.equal(changed, AAA().transform(logits.float(), 0).bfloat16())


def test_the_dtype_stays():
    for dtype in (torch.float16, torch.float64):
        assert AAA().transform(random_logits(2).to(dtype), 0).dtype == dtype


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kind": "sin"}, "unknown defense.kind 'sin'; did you mean sine?"),
        ({"period": 0.0}, "defense.period must be > 0, got 0.0"),
        ({"steps": 0}, "defense.steps must be > 0, got 0"),
        ({"temperature": math.nan}, "defense.temperature must be > 0, got nan"),
        ({"weight": -1.0}, "defense.weight must be at least 0, got -1.0"),
    ],
)
def test_bad_options_are_refused(options, text):
    with pytest.raises(UserError) as caught:
        AAA(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize("shape", [(4, 1), (4, 10, 2, 2)])
def test_what_has_no_margin_is_refused(shape):
    with pytest.raises(UserError, match=r"aaa needs logits \(rows, classes\) of at least two classes, got shape \(4, "):
        AAA().transform(torch.zeros(shape), 0)


def test_it_says_its_options():
    model = nn.Identity()
    expected = "AAA linear period 6 beta 1 weight 5 lr 0.1 steps 100 temperature 1 on the logits"
    assert AAA().describe(model) == expected
    assert AAA("sine").describe(model) == expected.replace("linear", "sine").replace(" beta 1", "")


def test_the_traceable_adam_is_that_of_torch_bit_for_bit():
    ours, theirs = random_logits(20), random_logits(20)
    own, adam = _Adam(ours, 0.1), torch.optim.Adam([theirs], lr=0.1)
    for step in range(100):
        theirs.grad = random_logits(20, std=1.0).roll(step)
        own.step(theirs.grad)
        adam.step()
    assert torch.equal(ours, theirs)

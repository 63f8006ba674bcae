"""The control attacks, on victims and attacks of which it is known what they must find."""

import math
from functools import partial
from pkgutil import resolve_name

import pytest
import torch
from harness import Linear, Mapped, Run, images, required
from msgspec.structs import asdict
from torch import nn

from rfdlight.attacks import NES, RandomNoise, RayS, Square
from rfdlight.core.registry import NAMES
from rfdlight.data import Images
from rfdlight.data.given import GivenImages
from rfdlight.evaluation.config import EvaluationConfig, Subject
from rfdlight.evaluation.sanity_checks import SanityChecks

SHAPE = (1, 4, 4)
COUNT = 12


def stored(count=COUNT, shape=SHAPE):
    """Images as a data module stores them, with the ids that `Run` gives them."""
    pixels = (images(count, shape) * 255).round().byte()
    return Images(pixels, torch.zeros(count, dtype=torch.int64), [f"test/{i:04d}" for i in range(count)])


def linear(offset=0.0):
    """The margin of class 0 is twice the first pixel less the second, and an offset."""
    weight = torch.zeros(SHAPE)
    weight[0, 0, :2] = torch.tensor([2.0, -1.0])
    return Linear(weight, offset)


def checks_of(victim, run, source, stop=lambda: False):
    subject = Subject(victim, "", GivenImages(source, run.engine.config.classes), run.engine.attack)
    return SanityChecks(subject, run.engine, torch.device("cpu"), EvaluationConfig(seed=run.engine.config.seed), stop)


def sanity_checks(victim, attack, source, budget=40, **options):
    """Run an attack, then its sanity checks."""
    run = attacked(victim, attack, source, budget, **options)
    return checks_of(victim, run, source).run(source, run.records), run


def attacked(victim, attack, source, budget=40, **options):
    x = source.pixels.float() / 255
    return Run(victim, attack, x, source.labels, budget=budget, batch_size=len(x), pool_size=2 * len(x), **options)


class Changing(nn.Module):
    """Answers differently from some moment on: once, or in every pass anew."""

    def __init__(self, victim):
        super().__init__()
        self.victim, self.shift, self.steady, self.passes = victim, 0.0, True, 0

    def forward(self, x):
        self.passes += 1
        return self.victim(x) - torch.tensor([self.shift * (1 if self.steady else self.passes), 0.0])


class Idle(Square):
    """Asks the clean image again and again."""

    def ask(self, state):
        super().ask(state)
        return state["x"].clone()

    def best(self, state):
        return state["x"].clone()


def test_nothing_breaks_in_a_ball_of_no_size():
    found, run = sanity_checks(linear(offset=0.2), Square(eps=0.3), stored())
    right = sum(record.clean_margin > 0 for record in run.records)
    assert 0 < right < COUNT
    assert any(record.verdict == "adversarial" and record.attack for record in run.records)
    assert asdict(found.no_ball) == {
        "images": COUNT,
        "queries": 40,
        "right": right,
        "adversarial": 0,
        "changed": [],
        "deterministic": True,
    }


def norms_of(name):
    return resolve_name(NAMES["attack"][name]).norms


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        # In turn the first and the last norm of an attack; the other is a slow test.
        pytest.param(name, norm, marks=[] if norm == norms_of(name)[-(number % 2)] else [pytest.mark.slow])
        for number, name in enumerate(sorted(NAMES["attack"]))
        for norm in norms_of(name)
    ],
)
def test_no_attack_breaks_anything_in_a_ball_of_no_size(name, norm, network, clean):
    x, y = (each[:2] for each in clean)
    kind = resolve_name(NAMES["attack"][name])
    source = Images((x * 255).round().byte(), y, [f"test/{i:04d}" for i in range(len(x))])
    run = attacked(network, kind(eps=0.5, norm=norm, **required(kind)), source, budget=4)
    found = checks_of(network, run, source)._no_ball(source, {record.id: record for record in run.records})
    assert found.adversarial == 0
    assert found.right > 0


@pytest.mark.parametrize("after", ["the run", "its first passes"])
def test_a_victim_that_changes_after_the_run_is_seen(after):
    changing = Changing(linear(offset=2.0))
    source = stored()
    run = Run(changing, Square(eps=0.1), source.pixels.float() / 255, source.labels, budget=40, batch_size=COUNT)
    changing.steady = after == "the run"
    changing.shift = 0.1
    found = checks_of(changing, run, source).run(source, run.records)
    assert found.no_ball.deterministic == (after == "the run")
    if after == "the run":
        assert found.no_ball.changed == [f"test/{i:04d}" for i in range(COUNT)]


def test_an_attack_that_does_nothing_is_weaker_than_random_noise():
    source = stored()
    x = source.pixels.float() / 255
    victim = linear(offset=0.2)
    fragile = (victim(x)[:, 0] > 0) & (victim.least_margin(x, 0.3) < 0)
    found, _ = sanity_checks(victim, Idle(eps=0.3), source)
    # Two signs decide: among 40 tries a pair that breaks comes up for every image that any point breaks.
    expected = {"images": COUNT, "queries": 40, "attack_only": 0, "noise_only": int(fragile.sum())}
    assert asdict(found.random_noise) == expected
    assert fragile.sum() > 3


def test_random_noise_is_not_compared_with_itself():
    found, _ = sanity_checks(linear(offset=0.2), RandomNoise(eps=0.3), stored())
    assert found.skipped["random_noise"] == "the attack is random noise itself"


@pytest.mark.parametrize("sigma", [0.0, 5.0])
def test_the_step_is_that_of_the_first_two_queries_whatever_the_noise(sigma):
    """NES asks at x + s u and x - s u; the margin of a linear victim differs there by 2 s w u, of deviation 2 s |w|."""
    source = Images(torch.full((100, *SHAPE), 128, dtype=torch.uint8), torch.zeros(100, dtype=torch.int64), [])
    source = Images(source.pixels, source.labels, [f"test/{i:04d}" for i in range(100)])
    step, norm = 0.05, math.sqrt(5)
    noisy = Mapped(linear(offset=9.0), lambda logits: logits + sigma * torch.randn(logits.shape) * torch.tensor([1, 0]))
    run = attacked(noisy, NES(eps=0.3, sigma=step), source.take([0, 1]), budget=2, deterministic=sigma == 0)
    found = checks_of(noisy, run, source)._step(source)
    signal, noise = found.signal, found.noise
    assert noise == pytest.approx(math.sqrt(2) * sigma, rel=0.05)
    # The mean of 100 squares, each estimated from 8 draws: four standard deviations.
    expected = 4 * step**2 * norm**2
    bound = 4 * math.sqrt((2 * expected**2 + 2 * (2 * sigma**2 / 8) ** 2 + 4 * expected * 2 * sigma**2 / 8) / 100)
    assert signal**2 == pytest.approx(expected, abs=bound)


def test_without_noise_the_step_is_the_difference_itself():
    answers = []

    def kept(logits):
        answers.append(logits[:, 0])
        return logits

    found, _ = sanity_checks(Mapped(linear(offset=0.2), kept), Square(eps=0.3), stored())
    first, second = answers[-9], answers[-1]  # each of the two queries was answered eight times, last of all
    assert not torch.equal(first, second)
    assert found.step.signal == pytest.approx(float((first - second).square().mean().sqrt()), rel=1e-6)
    assert found.step.noise == 0


def test_attacks_that_read_labels_have_no_step():
    found, _ = sanity_checks(linear(offset=0.2), RayS(eps=0.3), stored())
    assert found.skipped["step"].startswith("the attack reads ")


def test_a_run_that_is_stopped_makes_no_controls():
    victim, source = linear(offset=0.2), stored()
    x = source.pixels.float() / 255
    run = Run(victim, Square(eps=0.3), x, source.labels, budget=5)
    found = checks_of(victim, run, source, lambda: True).run(source, run.records)
    assert list(found.skipped.values()) == 3 * ["the run was stopped"]


def test_a_victim_that_fails_in_a_control_is_told():
    fails = []
    victim = Mapped(linear(offset=0.2), lambda logits: logits / 0 if fails else logits)
    source = stored()
    run = Run(victim, Square(eps=0.3), source.pixels.float() / 255, source.labels, budget=5)
    fails.append(True)
    found = checks_of(victim, run, source).run(source, run.records)
    assert len(found.skipped) == 3
    assert all(reason.count("the victim") for reason in found.skipped.values())


def test_controls_are_spread_over_the_images_and_leave_out_those_without_a_record():
    source = stored(24)
    x = source.pixels.float() / 255
    victim = linear(offset=0.2)
    run = Run(victim, Square(eps=0.3), x, source.labels, budget=5, batch_size=4)
    asked = []
    made = checks_of(victim, run, source)
    object.__setattr__(made, "_no_ball", partial(lambda sample, known: asked.extend(sample.ids) or {}))
    made.run(source, run.records[4:])
    assert asked == [f"test/{i:04d}" for i in (4, 6, 9, 11, 14, 16, 19, 21)]

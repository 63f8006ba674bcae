"""The compiled victim answers as the eager one does; where it does not, the run goes on eagerly.

Most tests have a stand-in for the compiler; three compile a small network.
"""

import shutil

import pytest
import torch
from harness import centred_network, images
from torch import nn

from rfdlight.core.query_counts import ticking
from rfdlight.core.row_counter import RowCounter
from rfdlight.defenses import AAA, FeatureNoise, InputNoise, LogitNoise, undefended
from rfdlight.engine.compilation import CompiledVictim, is_worthwhile
from rfdlight.engine.failures import OutOfMemory
from rfdlight.engine.oracle import Oracle
from rfdlight.victims.victim import Victim

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)
CLOCK = torch.zeros(8, dtype=torch.int64)


def scores(oracle, x, purpose="attack"):
    return oracle.scores(x, CLOCK[: len(x)], purpose)


class Compiler:
    """Stands in for the compiler: counts the calls of what it made, and changes their answers."""

    def __init__(self, change=lambda call, answer: answer):
        self.change, self.calls, self.made = change, 0, 0

    def __call__(self, function):
        self.made += 1

        def compiled(batch):
            self.calls += 1
            return self.change(self.calls, function(batch))

        return compiled


def noisy(network):
    defense = LogitNoise(0.5)
    defense.attach(network)
    return network


@pytest.fixture
def victim():
    return noisy(centred_network())


def test_full_passes_are_compiled_with_the_numbers_and_rows_of_eager_ones(victim):
    compiler, x = Compiler(), images(8)
    eager, oracle = Oracle(noisy(centred_network()), 8), Oracle(victim, 8)
    assert oracle.compile(x[:3], CompiledVictim(victim, compiler))
    assert compiler.calls == 2
    seen = oracle.forwarded
    for purpose, rows in (("attack", 8), ("criterion", 5), ("attack", 1)):
        assert torch.equal(scores(oracle, x[:rows], purpose), scores(eager, x[:rows], purpose))
    assert compiler.calls == 5
    assert oracle.forwarded - seen == 24
    assert oracle.spare == 3 + 7


def test_after_shorter_passes_are_allowed_few_rows_run_eagerly(victim):
    compiler, x = Compiler(), images(8)
    oracle = Oracle(victim, 8)
    oracle.allow_shorter_passes(x[:1])
    oracle.compile(x, CompiledVictim(victim, compiler))
    for rows, forwarded, calls in ((8, 8, 3), (5, 8, 4), (4, 4, 4), (1, 1, 4)):
        before = oracle.forwarded
        scores(oracle, x[:rows])
        assert (oracle.forwarded - before, compiler.calls) == (forwarded, calls)


def test_oracles_share_what_was_compiled_and_checked_once(victim):
    compiled = CompiledVictim(victim, compiler := Compiler())
    for rows, calls in ((8, 2), (8, 2), (4, 4)):
        oracle = Oracle(victim, rows)
        assert oracle.compile(images(8), compiled)
        assert (compiler.made, compiler.calls) == (1, calls)


def failing(call, answer):
    raise ValueError("no graph")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (failing, "ValueError: no graph"),
        (lambda call, answer: answer + 0.01 * torch.eye(*answer.shape), "differ"),
        (lambda call, answer, kept=[]: (kept.append(answer), kept[0])[1], "differ"),  # noise that is drawn once
    ],
)
def test_a_victim_that_does_not_compile_runs_eagerly_and_is_not_tried_again(victim, change, reason):
    compiled, x, lines = CompiledVictim(victim, compiler := Compiler(change)), images(8), []
    oracle = Oracle(victim, 8, message=lines.append)
    assert not oracle.compile(x, compiled)
    assert not Oracle(victim, 4, message=lines.append).compile(x, compiled)
    assert len(lines) == 1
    assert reason in lines[0]
    calls, eager = compiler.calls, Oracle(victim, 8)
    assert torch.equal(scores(oracle, x), scores(eager, x))
    assert compiler.calls == calls


def test_a_compiled_victim_that_fails_later_gives_way_to_the_eager_one():
    def later(call, answer):
        return answer if call < 4 else failing(call, answer)

    victim, lines = centred_network(), []
    oracle = Oracle(victim, 8, message=lines.append)
    oracle.compile(images(8), CompiledVictim(victim, compiler := Compiler(later)))
    x = images(8)
    expected, before = victim(x), oracle.forwarded
    for _ in range(4):
        torch.testing.assert_close(scores(oracle, x), expected)
    assert (compiler.calls, oracle.forwarded - before, oracle.spare, len(lines)) == (4, 32, 0, 1)


def test_after_memory_ran_out_smaller_passes_are_eager(victim):
    def full(call, answer):
        if call > 2:
            raise MemoryError
        return answer

    oracle = Oracle(victim, 8)
    oracle.compile(images(8), CompiledVictim(victim, compiler := Compiler(full)))
    with pytest.raises(OutOfMemory):
        scores(oracle, images(8))
    assert scores(oracle, images(4)).shape == (4, 5)
    assert compiler.calls == 3


def test_gradients_are_eager():
    victim = centred_network()
    oracle, x = Oracle(victim, 8), images(8)
    oracle.compile(x, CompiledVictim(victim, compiler := Compiler()))
    oracle.gradients(x, CLOCK, lambda logits: logits[:, 0])
    assert compiler.calls == 2


def test_few_queries_are_not_worth_a_compilation():
    demo = is_worthwhile(40 * 300, 0.001, 40.0, deterministic=False)
    paper = is_worthwhile(1000 * 1000, 0.001, 40.0, deterministic=False)
    assert (demo, paper) == (False, True)
    assert not is_worthwhile(10**9, float("inf"), 40.0, deterministic=False), "no pass was timed"
    assert not is_worthwhile(500 * 1000, 0.001, 40.0, deterministic=True)


def warming(clock):
    """A schedule."""
    return 1 - torch.exp(-clock.float())


class Branching(nn.Module):
    """A network whose way depends on its input, which is no graph."""

    def forward(self, x):
        return x.flatten(1)[:, :5] * (2 if x.sum() > 0 else 3)


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)
    return Victim(nn.Sequential(*layers), [0.5] * 3, [0.25] * 3).eval()


@needs_compiler
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_compiled_noise_is_the_eager_noise(device):
    victim, x, lines = network().to(device), torch.rand(8, 3, 8, 8, device=device), []
    for defense in (FeatureNoise(0.3, ["2"]), InputNoise(0.1, True, warming), LogitNoise(0.2), AAA(steps=3)):
        defense.attach(victim)
    eager, oracle = Oracle(victim, 8), Oracle(victim, 8, message=lines.append)
    assert oracle.compile(x, CompiledVictim(victim)), lines
    clock, answers = torch.arange(8, device=device), []
    for purpose in ("attack", "criterion", "attack", "attack"):
        answer = oracle.scores(x, clock, purpose)
        torch.testing.assert_close(answer, eager.scores(x, clock, purpose), rtol=1e-4, atol=1e-4)
        assert not any(torch.allclose(answer, before) for before in answers)
        answers.append(answer)
    with undefended():
        plain = oracle.scores(x, clock, "attack")
        assert oracle.is_compiled
        torch.testing.assert_close(plain, victim(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@needs_compiler
def test_compiled_noise_has_mean_0_its_variance_and_is_independent_between_rows_and_passes():
    victim, x = network(), torch.rand(1, 3, 8, 8).repeat(8, 1, 1, 1)
    plain = victim(x)[0].detach()
    with LogitNoise(0.5).on(victim):
        oracle = Oracle(victim, 8)
        assert oracle.compile(x, CompiledVictim(victim))
        for drawn in (oracle, Oracle(victim, 8)):  # compiled, eager
            seen = {}
            for purpose in ("attack", "criterion"):
                seen[purpose] = torch.stack([scores(drawn, x, purpose) - plain for _ in range(500)]) / 0.5
            for noise in seen.values():
                count = noise.numel()  # 20,000 normal draws, so 4 standard errors
                assert abs(float(noise.mean())) < 4 / count**0.5
                assert abs(float(noise.var()) - 1) < 4 * (2 / count) ** 0.5
                assert abs(float((noise[:, 0] * noise[:, 1]).mean())) < 4 / (count / 8) ** 0.5
                assert abs(float((noise[1:] * noise[:-1]).mean())) < 4 / count**0.5
            assert abs(float((seen["attack"] * seen["criterion"]).mean())) < 4 / count**0.5


@needs_compiler
def test_a_victim_that_is_no_graph_runs_eagerly_and_says_why_in_one_line():
    victim, lines = Branching(), []
    oracle = Oracle(victim, 8, message=lines.append)
    with RowCounter(victim) as counter, ticking(CLOCK):
        assert not oracle.compile(images(8), CompiledVictim(victim))
        assert scores(oracle, images(8)).shape == (8, 5)
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert counter.rows == oracle.forwarded

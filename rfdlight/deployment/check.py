"""Check of an exported file in a fresh process: its noise is alive and independent, its logits are those of the model.

Every statistical test has a share of one error probability, `ERROR`: a correct file fails the check with at most about
that probability. The tests of means and variances are asymptotic in the number of draws; the others are exact for
normal noise.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rfdlight.deployment import fresh_process
from rfdlight.deployment.fresh_process import HEAD, is_draw
from rfdlight.engine.compilation import agree
from rfdlight.errors import one_line

ERROR = 1e-4
"""Probability that the check fails a correct file."""

_TESTS = 6
"""Families of statistical tests, which share the error probability equally."""

_REPEATS = 2
"""Rows of each image in a call."""


class Finding(msgspec.Struct, frozen=True):
    """Outcome of one part of the check.

    Attributes:
        name: Of the part.
        passed: False if it failed; None for a fact that is no fault of the file, and that a server has to know.
        text: What was found, in one line.
    """

    name: str
    passed: bool | None
    text: str


class Draws(TorchDispatchMode):
    """Records the random numbers that torch draws inside a with block, or replaces them by given ones in their order.

    Args:
        given: Arrays with as many numbers as the drawn tensors.
    """

    def __init__(self, given: list[np.ndarray] | None = None) -> None:
        super().__init__()
        self.given = given
        self.drawn: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if is_draw(func):
            if self.given is not None and len(self.drawn) < len(self.given):
                out.copy_(torch.from_numpy(self.given[len(self.drawn)]).reshape(out.shape))
            self.drawn.append(out.detach().clone())
        return out


def check_file(
    file: Path, tapped: Path, victim: nn.Module, images: Tensor, labels: Tensor | None, draws: int, seed: int
) -> list[Finding]:
    """Check an exported file against the defended model.

    Args:
        file: The exported file, .onnx or .pt2.
        tapped: The same network with its random numbers as further outputs; for a .pt2 the file itself.
        victim: In eval mode on the CPU, with its defenses attached.
        images: Pixels in [0, 1], (images, C, H, W) float32.
        labels: (images,) int64, None if they are unknown.
        draws: Answers per image for the means and variances of the logits.
        seed: Of the sessions and of the model's noise.

    Returns:
        The findings; the file is correct if none has `passed` False.
    """
    x = images.repeat(_REPEATS, 1, 1, 1)
    calls = max(4, -(-draws // _REPEATS))
    seeds = np.random.default_rng(seed).integers(1, 2**31 - 1, 4)
    reference, drawn = _reference(victim, x, calls, seed)
    random = bool(_varies(reference).any())  # by draws of torch, or by others that a trace makes constant
    try:
        answers = _answers(file, tapped, x.numpy(), calls, seeds)
    except _NoAnswerError as error:
        return [Finding("process", False, f"a fresh process cannot run the file: {error}")]
    found = answers["session_0"]
    shape = (calls, len(x), reference.shape[-1])
    if found.shape != shape or answers["one_row"].shape != (1, shape[2]) or not np.isfinite(found).all():
        return [Finding("process", False, f"expected finite logits {shape}, got {found.shape}")]
    findings = [Finding("process", True, f"a fresh process loads the file; batches of 1 and {len(x)} rows")]
    findings += _same_noise(victim, x, answers, len(drawn))
    if random:
        findings += _differences(answers)
        if drawn and int(answers["points"]) == len(drawn):
            findings += [*_independence(answers, len(x)), _distribution(answers, drawn)]
        findings += [*_moments(_by_image(found, len(images)), _by_image(reference, len(images)))]
    else:
        same = bool((found == found[:1]).all())
        text = f"no answer of the model to these images is random, the file's calls {'agree' if same else 'differ'}"
        findings.append(Finding("calls", same, text))
    if labels is not None:
        findings.append(_accuracy(_by_image(found, len(images)), _by_image(reference, len(images)), labels.numpy()))
    return findings


class _NoAnswerError(Exception):
    """The fresh process ended without answers."""


def _answers(file: Path, tapped: Path, x: np.ndarray, calls: int, seeds: np.ndarray) -> dict[str, np.ndarray]:
    """Run the file in a fresh process; see `fresh_process` for the arrays."""
    with tempfile.TemporaryDirectory() as folder:
        request, answers = Path(folder, "request.npz"), Path(folder, "answers.npz")
        np.savez(request, path=str(file.resolve()), tapped=str(tapped.resolve()), x=x, calls=calls, seeds=seeds)
        command = [sys.executable, "-P", str(fresh_process.__file__), str(request), str(answers)]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if ended.returncode or not answers.is_file():
            lines = ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"]
            raise _NoAnswerError(one_line(lines[-1]))
        with np.load(answers) as stored:
            return dict(stored)


@torch.no_grad()
def _reference(victim: nn.Module, x: Tensor, calls: int, seed: int) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Return logits (calls, rows, classes) of the model, and the random numbers of its first calls at each point."""
    logits, drawn = [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for call in range(calls):
            with Draws() as draws:
                logits.append(victim(x).numpy())
            if call < 4:
                drawn.append([noise.numpy() for noise in draws.drawn])
    return np.stack(logits), [list(point) for point in zip(*drawn, strict=True)]


def _same_noise(victim: nn.Module, x: Tensor, answers: dict[str, np.ndarray], points: int) -> Iterator[Finding]:
    """Compare the logits of the file with those of the model under the very same noise."""
    found = int(answers["points"])
    if found != points:
        yield Finding("noise points", False, f"the file draws {found} tensors of noise, the model {points}")
        return
    noise = [answers[f"noise_{point}"] for point in range(points)]
    try:
        with torch.no_grad(), Draws(noise):
            expected = victim(x)
    except RuntimeError:
        shapes = ", ".join(str(each.shape) for each in noise)
        yield Finding("same noise", False, f"the file draws noise of shapes {shapes}, which are not the model's")
        return
    logits = torch.from_numpy(answers["with_noise"])
    most = float((expected - logits).abs().max())
    text = f"with the file's noise in the model, the logits differ by at most {most:.2g}"
    yield Finding("same noise", agree(expected, logits), text)


def _differences(answers: dict[str, np.ndarray]) -> Iterator[Finding]:
    """Compare whole blocks of answers: calls, rows, sessions, workers."""
    first, second = answers["session_0"], answers["session_1"]
    half = first.shape[1] // _REPEATS
    rows = [first[:, k * half : (k + 1) * half] for k in range(_REPEATS)]
    pairs = {
        "calls": ("two calls", _repeated(list(first))),
        "rows": ("two rows of one call with the same image", _repeated(rows)),
        "sessions": ("two seeded sessions of one process", _repeated([first[: len(second)], second])),
        "workers": ("two forked workers that seed themselves", _repeated(_both(answers, "worker"))),
        "sessions without seeds": ("two sessions of one process without seeds", _repeated(_both(answers, "unseeded"))),
        "workers without seeds": (
            "two workers, forked before their first session, without seeds",
            _repeated(_both(answers, "forked")),
        ),
    }
    for name, (what, same) in pairs.items():
        if same is not None:
            passed = None if same and name.endswith("without seeds") else not same
            yield Finding(name, passed, f"{what} {'replay the same noise' if same else 'differ'}")


def _both(answers: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    return [answers[f"{name}_{number}"] for number in range(2) if f"{name}_{number}" in answers]


def _repeated(blocks: list[np.ndarray]) -> bool | None:
    """Return whether two of several blocks of answers are equal, None if there are no two."""
    seen = [block.tobytes() for block in blocks]
    return len(set(seen)) < len(seen) if len(seen) > 1 else None


def _independence(answers: dict[str, np.ndarray], rows: int) -> Iterator[Finding]:
    """Test correlations of the random numbers: between points and sessions at every lag, between rows and calls."""
    points = int(answers["points"])
    streams = {
        (number, point): np.concatenate([answers[f"s{number}_c{call}_head_{point}"] for call in range(4)])[:HEAD]
        for number in range(2)
        for point in range(points)
    }
    pairs = combinations(streams, 2)
    tests = [(_named(*a, points), _named(*b, points), _lagged(streams[a], streams[b])) for a, b in pairs]
    yield _least("noise points", "at every lag", tests, f"{points} noise points in two sessions")
    per_row = []
    for point in range(points):
        if f"s0_c0_row_{point}" not in answers:
            yield Finding("noise rows", False, f"noise point {point + 1} draws once per call, not once per row")
            return
        calls = np.stack([answers[f"s0_c{call}_row_{point}"] for call in range(4)])  # (calls, rows, numbers)
        for kind, parts in (("row", calls.swapaxes(0, 1)), ("call", calls)):
            for a, b in combinations(range(len(parts)), 2):
                test = _tested(_correlation(parts[a].ravel(), parts[b].ravel()), parts[a].size)
                per_row.append((f"point {point + 1}, {kind} {a + 1}", f"{kind} {b + 1}", test))
    yield _least("noise rows", "between rows and between calls", per_row, f"{rows} rows of 4 calls")


def _named(session: int, point: int, points: int) -> str:
    return f"point {point + 1} of {points} in session {session + 1}"


def _tested(correlation: float, count: int) -> tuple[float, float, int]:
    """Return a correlation of `count` pairs, its two-sided p value under independence, and 1 test."""
    t = correlation * np.sqrt((count - 2) / max(1e-300, 1 - min(1.0, correlation**2)))
    return correlation, float(2 * stats.t.sf(abs(t), count - 2)), 1


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two arrays; that with a constant is 1, since constants are no noise."""
    if a.std() == 0 or b.std() == 0:
        return 1.0
    return float(np.corrcoef(a, b)[0, 1])


def _lagged(a: np.ndarray, b: np.ndarray) -> tuple[float, float, int]:
    """Return the largest correlation over all lags with at least half of the numbers, its p value, and the lags."""
    count = min(len(a), len(b))
    if a.std() == 0 or b.std() == 0:
        return 1.0, 0.0, 1
    first, second = ((each[:count] - each[:count].mean()) / each[:count].std() for each in (a, b))
    size = 2 * count
    product = np.fft.irfft(np.fft.rfft(first, size) * np.conj(np.fft.rfft(second, size)), size)
    lags = np.arange(-(count // 2), count // 2 + 1)
    correlations = product[lags] / (count - np.abs(lags))
    most = int(np.abs(correlations).argmax())
    correlation, p, _ = _tested(float(correlations[most]), count - abs(int(lags[most])))
    return correlation, p, len(lags)


def _least(name: str, where: str, tests: list[tuple[str, str, tuple[float, float, int]]], what: str) -> Finding:
    """Return the finding on the smallest of several p values, by Bonferroni's correction."""
    first, second, (correlation, p, _) = min(tests, key=lambda test: test[2][1])
    count = sum(tests for *_, (_, _, tests) in tests)
    passed = p * count > ERROR / _TESTS
    if passed:
        return Finding(name, True, f"{what}: uncorrelated {where}, largest {abs(correlation):.2g} of {count:,} tests")
    return Finding(name, False, f"{first} and {second} have correlation {correlation:.2g}, p {p:.1g}")


def _distribution(answers: dict[str, np.ndarray], drawn: list[list[np.ndarray]]) -> Finding:
    """Compare the random numbers of the file with those of torch: their distributions and their variances.

    The first test is that of Kolmogorov and Smirnov, the second is asymptotic and finds a wrong scale sooner.
    """
    worst = 1.0, "no noise"
    for point, calls in enumerate(drawn):
        ours = np.concatenate([answers[f"s0_c{call}_head_{point}"] for call in range(4)]).astype(np.float64)
        theirs = np.concatenate([noise.reshape(-1)[:HEAD] for noise in calls]).astype(np.float64)
        distance = stats.ks_2samp(ours, theirs)
        ratio, error = _log_variances(ours, theirs)
        p = 2 * min(float(distance.pvalue), float(2 * stats.norm.sf(np.abs(ratio) / error)))
        text = (
            f"point {point + 1}: distance of distributions {distance.statistic:.2g}, log ratio of variances {ratio:.2g}"
        )
        worst = min(worst, (p, text))
    return Finding("noise distribution", worst[0] * len(drawn) > ERROR / _TESTS, f"least likely at {worst[1]}")


def _log_variances(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithm of the ratio of two variances over the first axis, and its asymptotic standard error."""
    ratio = np.log(np.maximum(one.var(0), 1e-30)) - np.log(np.maximum(two.var(0), 1e-30))
    parts = [(np.maximum(stats.kurtosis(each, fisher=False), 1.5) - 1) / len(each) for each in (one, two)]
    return ratio, np.sqrt(parts[0] + parts[1])


def _by_image(logits: np.ndarray, images: int) -> np.ndarray:
    """Return logits (calls, rows, classes) as (draws, images, classes)."""
    return logits.reshape(-1, images, logits.shape[-1])


def _varies(logits: np.ndarray) -> np.ndarray:
    """Return where logits (draws, ..., classes) differ over the draws by more than rounding does."""
    span = np.ptp(logits, axis=-1, keepdims=True).max(0)
    return np.asarray(np.ptp(logits, axis=0) > 1e-4 * span)


def _moments(found: np.ndarray, expected: np.ndarray) -> Iterator[Finding]:
    """Compare means and variances of the logits, (draws, images, classes), where they are random."""
    random = _varies(found) | _varies(expected)
    one, two = (each[:, random].astype(np.float64) for each in (found, expected))
    n, tests = len(one), one.shape[1]
    z = float(stats.t.isf(ERROR / _TESTS / tests / 2, n - 1))
    scale = np.maximum(two.std(0), 1e-12)
    shift = (one.mean(0) - two.mean(0)) / scale
    half = z * np.sqrt(one.var(0) + two.var(0)) / scale / np.sqrt(n)
    yield _interval("mean", shift, half, "standard deviations", f"{tests} means of logits, {n} draws each")
    ratio, error = _log_variances(one, two)
    yield _interval("variance", ratio, z * error, "in the logarithm", f"{tests} variances of logits, {n} draws each")


def _interval(name: str, difference: np.ndarray, half: np.ndarray, unit: str, what: str) -> Finding:
    worst = int((np.abs(difference) / half).argmax())
    text = f"{what}: the least likely difference is {difference[worst]:+.3f} {unit}, interval +-{half[worst]:.3f}"
    return Finding(name, bool((np.abs(difference) <= half).all()), text)


def _accuracy(found: np.ndarray, expected: np.ndarray, labels: np.ndarray) -> Finding:
    """Compare the shares of right single answers."""
    ours, theirs = ((each.argmax(2) == labels).mean(0) for each in (found, expected))
    z = float(stats.norm.isf(ERROR / _TESTS / 2))
    error = np.sqrt((ours * (1 - ours) + theirs * (1 - theirs)).sum() / len(found)) / len(labels)
    difference = float(ours.mean() - theirs.mean())
    text = (
        f"{ours.mean():.2%} of single answers are right, {theirs.mean():.2%} of the model's, interval +-{z * error:.2%}"
    )
    return Finding("accuracy", bool(abs(difference) <= z * error + 1e-12), f"{len(labels)} images: {text}")

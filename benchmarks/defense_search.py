"""Searches for a defense of a normally trained network that costs 2 points of clean accuracy and withstands bernoulli.

Each candidate gets the sigma at which it costs the target drop on up to 1000 test images that are not attacked, within
a quarter of it, from the clean accuracy of the undefended `resnet20-cifar10`. Then `bernoulli` attacks 100 balanced
test images, linf 0.05. Networks that were trained under noise are given by their victim cards; what they lose without
noise counts as a part of the drop.

    python benchmarks/defense_search.py --output runs/search [--only PATTERN]
        [--trained noise-layer1=runs/noise-layer1/victim.json noise-input=runs/noise-input/victim.json]
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

import rfdlight as rfd
from rfdlight.analysis.calibration import Target, calibrate_noise, rough_meter
from rfdlight.data import CIFAR10
from rfdlight.defenses import Noise
from rfdlight.errors import UserError

REFERENCE = "resnet20-cifar10"


class RoundedLogits(rfd.LogitNoise):
    """Logits with noise, rounded to whole numbers of a step: small changes of the score are hidden twice."""

    def __init__(self, sigma: float, step: float) -> None:
        super().__init__(sigma)
        self.step = step

    def transform(self, x: Tensor, point: int) -> Tensor:
        return self.step * (super().transform(x, point) / self.step).round()


class Candidate(NamedTuple):
    """A victim, its noise, and the draws that are averaged as one answer."""

    noise: Callable[[], Noise]
    draws: int = 1
    victim: str = REFERENCE


CANDIDATES = {
    "input": Candidate(lambda: rfd.InputNoise(0.014)),
    "layer1": Candidate(lambda: rfd.FeatureNoise(0.3, "layer1")),
    "layer2": Candidate(lambda: rfd.FeatureNoise(0.35, "layer2")),
    "all blocks": Candidate(lambda: rfd.FeatureNoise(0.15, "layer*.*")),
    "logits": Candidate(lambda: rfd.LogitNoise(1.0)),
    "logits, confidence below 0.99": Candidate(lambda: rfd.LogitNoise(2.0, below=0.99)),
    "logits, confidence below 0.9": Candidate(lambda: rfd.LogitNoise(2.0, below=0.9)),
    "logits, rounded to 2": Candidate(lambda: RoundedLogits(1.0, 2.0)),
    "logits, rounded to 4": Candidate(lambda: RoundedLogits(1.0, 4.0)),
    "input, mean of 4": Candidate(lambda: rfd.InputNoise(0.03), 4),
    "layer1, mean of 4": Candidate(lambda: rfd.FeatureNoise(0.6, "layer1"), 4),
    "layer3, mean of 4": Candidate(lambda: rfd.FeatureNoise(8.0, "layer3"), 4),
}
AFTER_TRAINING = {
    "input": lambda: rfd.InputNoise(0.03),
    "layer1": lambda: rfd.FeatureNoise(0.6, "layer1"),
    "layer2": lambda: rfd.FeatureNoise(0.6, "layer2"),
}
"""The noise in front of which, and in which, each given network was trained, by the end of its name."""


def defenses_of(candidate: Candidate, noise: Noise) -> list[rfd.Defense]:
    """Return the defenses in the order of their attachment: noise in the input is drawn for each repetition."""
    return [noise] if candidate.draws == 1 else [rfd.AveragedAnswers(candidate.draws), noise]


def calibrated(candidate: Candidate, victim: nn.Module, data: CIFAR10, least: float) -> tuple[Noise, float]:
    """Return the noise at the sigma that lowers the clean accuracy to `least`, and the measured accuracy."""
    meter = rough_meter(victim, data.held_out())
    noise = candidate.noise()
    with ExitStack() as stack:
        if candidate.draws > 1:
            stack.enter_context(rfd.AveragedAnswers(candidate.draws).on(meter.victim))
        cost = calibrate_noise(meter, noise, Target.rough(meter.clean_accuracy - least)).cost
    return noise, meter.clean_accuracy - cost.drop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/search"))
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--drop", type=float, default=0.02)
    parser.add_argument("--attack", default="bernoulli")
    parser.add_argument("--only", default="", help="pattern of the candidates")
    parser.add_argument("--trained", nargs="*", default=[], help="NAME-PLACE=CARD of networks trained under noise")
    options = parser.parse_args()
    candidates = dict(CANDIDATES)
    for given in options.trained:
        name, _, card = given.partition("=")
        candidates[name] = Candidate(AFTER_TRAINING[name.rpartition("-")[2]], 1, card)
    data = CIFAR10(num_images=options.images)
    data.setup("test")
    reference = rough_meter(rfd.load_victim(REFERENCE), data.held_out()).clean_accuracy
    print(
        f"| noise | sigma | clean, of {reference:.1%} | robust | bounds | rows per query |\n|---|---|---|---|---|---|"
    )
    for name, candidate in candidates.items():
        if not re.search(options.only, name):
            continue
        victim = rfd.load_victim(candidate.victim)
        try:
            noise, accuracy = calibrated(candidate, victim, data, reference - options.drop)
        except UserError as error:
            print(f"| {name} | {error} |", flush=True)
            continue
        defenses = defenses_of(candidate, noise)
        folder = options.output / re.sub(r"[^a-z0-9.]+", "-", name)
        run = rfd.evaluate(
            victim, data, options.attack, eps=0.05, budget=1000, defense=defenses, sanity_checks=False, out=folder
        )
        found = run.summary.mean_logits
        robust = f"{found.robust.value:.1%} ({max(found.robust.low, 0):.1%} to {found.robust.high:.1%})"
        bounds = f"{found.robust_lower.value:.1%} to {found.robust_upper.value:.1%}"
        print(f"| {name} | {noise.sigma:g} | {accuracy:.1%} | {robust} | {bounds} | {candidate.draws} |", flush=True)


if __name__ == "__main__":
    main()

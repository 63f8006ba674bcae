"""Small attacks after a run whose outcome is known beforehand, so that a wrong one says that the run is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.attacks.random_noise import RandomNoise
from rfdlight.core import rng
from rfdlight.data.conversion import unit_range
from rfdlight.data.given import GivenImages
from rfdlight.data.sources import ImageSource
from rfdlight.data.subset import spread
from rfdlight.engine.config import MOST_ROWS, rows_per_pass
from rfdlight.engine.engine import Engine
from rfdlight.engine.oracle import Oracle, OracleConfig
from rfdlight.engine.targets import draw_targets
from rfdlight.errors import UserError
from rfdlight.evaluation.config import EvaluationConfig
from rfdlight.evaluation.description import Subject
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.records.facts import FirstStep, NoBall, NoiseComparison, SanityCheckResults
from rfdlight.records.records import Record
from rfdlight.records.summary import is_robust_at

QUERIES = 50
"""Per image and control, at most: random noise breaks most of what it breaks with fewer."""

_NO_SIZE = 1e-8
"""Radius of a ball that holds no other point: less than the distance of neighbouring float32 numbers near 1."""

_ROUNDING = 1e-3
"""How much of itself, or in logits, a margin may change where only the shape of a forward pass has."""

_DRAWS = 8
"""Answers to each of the attack's first two queries."""


class _SkippedError(UserError):
    """A sanity check cannot be made."""


@dataclass(frozen=True)
class SanityChecks:
    """The control attacks on one run.

    Args:
        subject: Of the run; its victim has its defenses attached.
        engine: Of the run, when it has ended; a control has as many images as two of its forward passes, but not more
            than 64 and not fewer than one of them.
        device: Where the images go.
        config: Of the run.
        stop: Looked at before every tick.
    """

    subject: Subject
    engine: Engine
    device: torch.device
    config: EvaluationConfig
    stop: Callable[[], bool]

    def run(self, images: ImageSource, records: Sequence[Record]) -> SanityCheckResults:
        """Attack some images in a ball of no size, and by random noise, and look at the attack's first step.

        Args:
            images: Of the run.
            records: Of the run, at least one.
        """
        known = {record.id: record for record in records}
        rows = self.engine.oracle.batch_size
        chosen = spread([i for i, name in enumerate(images.ids) if name in known], max(rows, min(2 * rows, MOST_ROWS)))
        sample = images.take(chosen)
        checks: dict[str, Callable[[], Any]] = {
            "no_ball": lambda: self._no_ball(sample, known),
            "random_noise": lambda: self._random_noise(sample, known),
            "step": lambda: self._step(sample),
        }
        made, skipped = {}, {}
        for name, check in checks.items():
            try:
                if not self.stop():
                    made[name] = check()
                if self.stop():
                    raise _SkippedError("the run was stopped")
            except UserError as error:
                skipped[name] = str(error)
                made.pop(name, None)
        return SanityCheckResults(**made, skipped=skipped)

    def _attack(self, sample: ImageSource, attack: Attack) -> Evaluation:
        """Attack a sample with exact query counting and the sequential criterion."""
        config = EvaluationConfig(
            budget=self._queries,
            batch_size=min(self.engine.oracle.batch_size, rows_per_pass(len(sample))),
            channels_last=self.config.channels_last,
            seed=self.config.seed,
        )
        evaluation = Evaluation(
            Subject(self.subject.victim, self.subject.text, GivenImages(sample, self.engine.config.classes), attack),
            config,
            deterministic=self.engine.deterministic,
            starting_points=self.engine.config.starting_points,
            stopped=self.stop,
        )
        evaluation.run(self.device)
        return evaluation

    @property
    def _queries(self) -> int:
        return min(self.engine.config.budget, QUERIES)

    def _no_ball(self, sample: ImageSource, known: dict[str, Record]) -> NoBall:
        evaluation = self._attack(sample, self.subject.attack.configured(eps=_NO_SIZE))
        records = evaluation.writer.past.records
        right = [record for record in records if record.clean_correct]
        return NoBall(
            images=len(records),
            queries=self._queries,
            right=len(right),
            adversarial=sum(record.verdict == "adversarial" for record in right),
            changed=sorted(record.id for record in records if _differs(record, known[record.id])),
            deterministic=evaluation.engine.deterministic,
        )

    def _random_noise(self, sample: ImageSource, known: dict[str, Record]) -> NoiseComparison:
        if isinstance(self.subject.attack, RandomNoise):
            raise _SkippedError("the attack is random noise itself")
        if self.subject.attack.norm not in RandomNoise.norms:
            raise _SkippedError(f"random noise is not defined for {self.subject.attack.norm}")
        noise = RandomNoise(self.subject.attack.eps, self.subject.attack.norm, self.subject.attack.targeted)
        stood = {record.id: record.is_robust for record in self._attack(sample, noise).writer.past.records}
        pairs = [(is_robust_at(known[name], self.engine.config.budget), stands) for name, stands in stood.items()]
        return NoiseComparison(
            images=len(pairs),
            queries=self._queries,
            attack_only=sum(stands and not attacked for attacked, stands in pairs),
            noise_only=sum(attacked and not stands for attacked, stands in pairs),
        )

    def _step(self, sample: ImageSource) -> FirstStep:
        """Compare how far the loss differs between the attack's first two queries with what noise does to it.

        Both are root mean squares over the images: of the difference of two mean losses, and of the standard deviation
        of the difference of two single ones. Products of independent differences keep the noise out of the former.
        """
        if self.subject.attack.access != "score":
            raise _SkippedError(f"the attack reads {self.subject.attack.access}, not scores")
        if self.engine.config.budget < 2:
            raise _SkippedError("the attack has no second query")
        attack = self.subject.attack
        x = unit_range(sample.read(list(range(len(sample))))).to(self.device)
        rows, seed = self.engine.oracle.batch_size, self.engine.config.seed
        config = OracleConfig(seed=seed, attempt=-1, channels_last=self.config.channels_last)
        oracle = Oracle(self.subject.victim, rows, config)
        try:
            losses = self._first_losses(oracle, attack, x, sample)
        finally:
            oracle.close()
        difference = losses[0] - losses[1]  # (draws, images)
        noise = difference.var(0).mean().sqrt()
        products = (difference.sum(0).square() - difference.square().sum(0)) / (_DRAWS * (_DRAWS - 1))
        signal = math.sqrt(max(0.0, float(products.mean())))
        return FirstStep(images=len(x), signal=signal, noise=float(noise))

    def _first_losses(self, oracle: Oracle, attack: Attack, x: Tensor, sample: ImageSource) -> list[Tensor]:
        """Return the losses at each image's first two queries, (draws, images) float64 both."""
        y = sample.labels.to(self.device)
        keys = [rng.image_seed(self.engine.config.seed, image_id) for image_id in sample.ids]
        seed = torch.tensor(keys, dtype=torch.int64, device=self.device)
        state = {"x": x, "y": y, "seed": seed, "budget": torch.full_like(y, self.engine.config.budget)}
        state |= draw_targets(attack, y, seed, self.engine.config.classes, self.engine.config.starting_points)
        state |= attack.init(x, y, seed)
        clock = torch.zeros_like(y)
        losses: list[Tensor] = []
        while len(losses) < 2:
            points = attack.ask(state)
            watches = bool(attack.is_success_check(state).any())
            answers = [_scores(oracle, points, clock) for _ in range(_DRAWS)]
            if not watches:
                losses.append(torch.stack([attack.objective(state, logits).double() for logits in answers]))
            attack.tell(state, points, answers[0])
        return losses


def _scores(oracle: Oracle, points: Tensor, clock: Tensor) -> Tensor:
    """Return the logits of some points, (rows, classes), in as many forward passes as they take."""
    parts = zip(points.split(oracle.batch_size), clock.split(oracle.batch_size), strict=True)
    return torch.cat([oracle.scores(part, ticks, "attack") for part, ticks in parts])


def _differs(now: Record, before: Record) -> bool:
    """Say whether the margin at a clean image has changed by more than rounding."""
    return not math.isclose(now.clean_margin, before.clean_margin, rel_tol=_ROUNDING, abs_tol=_ROUNDING)

"""Sanity checks of a run: small attacks after it, whose outcome is known beforehand."""

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
from rfdlight.core.statistics import count_pairs
from rfdlight.data.conversion import unit_range
from rfdlight.data.given import GivenImages
from rfdlight.data.sources import ImageSource
from rfdlight.data.subset import spread
from rfdlight.engine.config import MOST_ROWS, rows_per_pass
from rfdlight.engine.engine import Engine
from rfdlight.engine.evaluations import MOST_BEFORE_FINAL
from rfdlight.engine.oracle import Oracle, OracleConfig
from rfdlight.engine.targets import draw_targets
from rfdlight.errors import UserError
from rfdlight.evaluation.config import EvaluationConfig, Subject
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.records.facts import FirstStep, NoBall, NoiseComparison, SanityCheckResults
from rfdlight.records.records import Record
from rfdlight.records.summary import is_robust_at

QUERIES = 50
"""Per image and check, at most: random noise succeeds with fewer, where it does."""

_NO_SIZE = 1e-8
"""Radius of a ball that holds no other point: less than the distance of neighbouring float32 numbers near 1."""

_ROUNDING = 1e-3
"""Change of a margin by another shape of a forward pass, relative or in logits."""

_ANSWERS = 8
"""Answers to each of the attack's first two queries."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig(EvaluationConfig):
    """Settings of a small attack, whose curve is of no use."""

    @property
    def interim_queries(self) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True)
class SanityChecks:
    """Sanity checks of an ended run, on as many images as two forward passes hold, but at most 64 or one pass."""

    subject: Subject
    engine: Engine  # that has ended
    device: torch.device
    config: EvaluationConfig
    stop: Callable[[], bool]

    def run(self, images: ImageSource, records: Sequence[Record]) -> SanityCheckResults:
        """Make the checks on some images of the run; a check that raises a UserError is skipped."""
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
                    raise UserError("the run was stopped")
            except UserError as error:
                skipped[name] = str(error)
                made.pop(name, None)
        return SanityCheckResults(**made, skipped=skipped)

    def _attack(self, sample: ImageSource, attack: Attack) -> Evaluation:
        """Attack a sample with exact query counting and the sequential criterion."""
        config = CheckConfig(
            budget=self._queries,
            final_evaluations=min(self.config.final_evaluations, MOST_BEFORE_FINAL),
            batch_size=min(self.engine.oracle.batch_size, rows_per_pass(len(sample))),
            channels_last=self.engine.oracle.config.channels_last,
            seed=self.config.seed,
        )
        images = GivenImages(sample, self.engine.config.classes)
        evaluation = Evaluation(
            Subject(self.subject.victim, self.subject.text, images, attack),  # eager: no compilation is worth it
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
        right = [record for record in records if record.clean_verdict == "right"]
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
            raise UserError("the attack is random noise itself")
        if self.subject.policy is not None:
            raise UserError("a query policy acts on the attack alone")
        if self.subject.attack.norm not in RandomNoise.norms:
            raise UserError(f"random noise is not defined for {self.subject.attack.norm}")
        noise = RandomNoise(self.subject.attack.eps, self.subject.attack.norm, self.subject.attack.targeted)
        records = self._attack(sample, noise).writer.past.records
        robust = [is_robust_at(known[record.id], self.engine.config.budget) for record in records]
        pairs = count_pairs(robust, [record.is_robust for record in records])
        return NoiseComparison(
            images=len(records),
            queries=self._queries,
            attack_only=pairs["only_second"],
            noise_only=pairs["only_first"],
        )

    def _step(self, sample: ImageSource) -> FirstStep:
        """Compare the difference in the loss between the attack's first two queries with the noise of that difference.

        Both are root mean squares over the images: of the difference of two mean losses, and of the standard deviation
        of the difference of two single ones. Products of independent differences keep the noise out of the former.
        """
        if self.subject.attack.access != "score":
            raise UserError(f"the attack reads {self.subject.attack.access}, not scores")
        if self.engine.config.budget < 2:
            raise UserError("the attack has no second query")
        attack = self.subject.attack
        x = unit_range(sample.read(list(range(len(sample))))).to(self.device)
        rows, seed = self.engine.oracle.batch_size, self.engine.config.seed
        config = OracleConfig(seed=seed, attempt=-1, channels_last=self.engine.oracle.config.channels_last)
        oracle = Oracle(self.subject.victim, rows, config)
        try:
            losses = self._first_losses(oracle, attack, x, sample)
        finally:
            oracle.close()
        difference = losses[0] - losses[1]  # (answers, images)
        noise = difference.var(0).mean().sqrt()
        products = (difference.sum(0).square() - difference.square().sum(0)) / (_ANSWERS * (_ANSWERS - 1))
        signal = math.sqrt(max(0.0, float(products.mean())))
        return FirstStep(images=len(x), signal=signal, noise=float(noise))

    def _first_losses(self, oracle: Oracle, attack: Attack, x: Tensor, sample: ImageSource) -> list[Tensor]:
        """Return the losses at each image's first two queries, (answers, images) float64 both."""
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
            checks = attack.is_success_check(state)
            answers = [_scores(oracle, points, clock) for _ in range(_ANSWERS)]
            if checks is None or not checks.any():
                losses.append(torch.stack([attack.objective(state, logits).double() for logits in answers]))
            attack.tell(state, points, answers[0])
        return losses


def _scores(oracle: Oracle, points: Tensor, clock: Tensor) -> Tensor:
    """Return the logits of some points, (rows, classes), in as many forward passes as they take."""
    parts = zip(points.split(oracle.batch_size), clock.split(oracle.batch_size), strict=True)
    return torch.cat([oracle.scores(part, ticks, "attack") for part, ticks in parts])


def _differs(now: Record, before: Record) -> bool:
    """Return whether the margin at a clean image has changed by more than rounding."""
    return not math.isclose(now.clean_margin, before.clean_margin, rel_tol=_ROUNDING, abs_tol=_ROUNDING)

"""Small attacks after a run whose outcome is known beforehand, so that a wrong one says that the run is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfdlight.attacks.base import Attack
from rfdlight.attacks.random_noise import RandomNoise
from rfdlight.core import rng
from rfdlight.data.base import ImageSource
from rfdlight.data.conversion import unit_range
from rfdlight.engine.engine import Engine
from rfdlight.engine.oracle import Oracle
from rfdlight.engine.passes import MOST_ROWS, rows_per_pass
from rfdlight.engine.targets import draw_targets
from rfdlight.errors import UserError
from rfdlight.evaluation.short_attack import Outcome, short_attack
from rfdlight.records.records import Record, clean_right
from rfdlight.records.summary import is_robust_at

QUERIES = 50
"""Per image and control, at most: random noise breaks most of what it breaks with fewer."""

_NO_SIZE = 1e-8
"""Radius of a ball that holds no other point: less than the distance of neighbouring float32 numbers near 1."""

_ROUNDING = 1e-3
"""How much of itself, or in logits, a margin may change where only the shape of a forward pass has."""

_DRAWS = 8
"""Answers to each of the attack's first two queries."""


@dataclass(frozen=True)
class SanityChecks:
    """The control attacks on one run.

    Args:
        victim: With whatever defenses are attached.
        engine: Of the run, when it has ended; a control has as many images as two of its forward passes, but not more
            than 64 and not fewer than one of them.
        device: Where the images go.
        channels_last: Run the victim in channels-last memory.
        stop: Looked at before every tick.
    """

    victim: nn.Module
    engine: Engine
    device: torch.device
    channels_last: bool
    stop: Callable[[], bool]

    def run(self, images: ImageSource, records: Sequence[Record]) -> dict[str, Any]:
        """Attack some images in a ball of no size, and by random noise, and look at the attack's first step.

        Args:
            images: Of the run.
            records: Of the run, at least one.

        Returns:
            What `rfdlight.records.consistency_checks` reads, by the names of the sanity checks; a control that could
            not be made holds the reason under "skipped".
        """
        known = {record["id"]: record for record in records}
        rows = self.engine.oracle.batch_size
        chosen = spread([i for i, name in enumerate(images.ids) if name in known], max(rows, min(2 * rows, MOST_ROWS)))
        sample = images.take(chosen)
        made = {
            "no_ball": lambda: self._no_ball(sample, known),
            "random_noise": lambda: self._random_noise(sample, known),
            "step": lambda: self._step(sample),
        }
        return {name: self._guarded(make) for name, make in made.items()}

    def _guarded(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if self.stop():
            return {"skipped": "the run was stopped"}
        try:
            found = make()
        except UserError as error:
            return {"skipped": str(error)}
        return {"skipped": "the run was stopped"} if self.stop() else found

    def _short_attack(self, sample: ImageSource, attack: Attack) -> Outcome:
        return short_attack(
            self.victim,
            sample,
            attack,
            classes=self.engine.classes,
            budget=self._query_step,
            device=self.device,
            seed=self.engine.seed,
            batch_size=min(self.engine.oracle.batch_size, rows_per_pass(len(sample))),
            channels_last=self.channels_last,
            deterministic=self.engine.deterministic,
            starting_points=self.engine.starting_points,
            stop=self.stop,
        )

    @property
    def _query_step(self) -> int:
        return min(self.engine.budget, QUERIES)

    def _no_ball(self, sample: ImageSource, known: dict[str, Record]) -> dict[str, Any]:
        outcome = self._short_attack(sample, self.engine.given_attack.configured(eps=_NO_SIZE))
        records = outcome.records
        right = [record for record in records if clean_right(record)]
        return {
            "images": len(records),
            "queries": self._query_step,
            "right": len(right),
            "adversarial": sum(record["verdict"] == "adversarial" for record in right),
            "changed": sorted(record["id"] for record in records if _differs(record, known[record["id"]])),
            "deterministic": outcome.deterministic,
        }

    def _random_noise(self, sample: ImageSource, known: dict[str, Record]) -> dict[str, Any]:
        if isinstance(self.engine.attack, RandomNoise):
            return {"skipped": "the attack is random noise itself"}
        if self.engine.attack.norm not in RandomNoise.norms:
            return {"skipped": f"random noise is not defined for {self.engine.attack.norm}"}
        noise = RandomNoise(self.engine.attack.eps, self.engine.attack.norm, self.engine.attack.targeted)
        stood = self._short_attack(sample, noise).withstood
        pairs = [(is_robust_at(known[name], self.engine.budget), stands) for name, stands in stood.items()]
        return {
            "images": len(pairs),
            "queries": self._query_step,
            "attack_only": sum(stands and not attacked for attacked, stands in pairs),
            "noise_only": sum(attacked and not stands for attacked, stands in pairs),
        }

    def _step(self, sample: ImageSource) -> dict[str, Any]:
        """Compare how far the loss differs between the attack's first two queries with what noise does to it.

        Both are root mean squares over the images: of the difference of two mean losses, and of the standard deviation
        of the difference of two single ones. Products of independent differences keep the noise out of the former.
        """
        if self.engine.attack.access != "score":
            return {"skipped": f"the attack reads {self.engine.attack.access}, not scores"}
        if self.engine.budget < 2:
            return {"skipped": "the attack has no second query"}
        attack = self.engine.given_attack
        x = unit_range(sample.read(list(range(len(sample))))).to(self.device)
        rows, seed = self.engine.oracle.batch_size, self.engine.seed
        oracle = Oracle(self.victim, rows, seed=seed, channels_last=self.channels_last, attempt=-1)
        try:
            losses = self._first_losses(oracle, attack, x, sample)
        finally:
            oracle.close()
        difference = losses[0] - losses[1]  # (draws, images)
        noise = difference.var(0).mean().sqrt()
        products = (difference.sum(0).square() - difference.square().sum(0)) / (_DRAWS * (_DRAWS - 1))
        return {"images": len(x), "signal": math.sqrt(max(0.0, float(products.mean()))), "noise": float(noise)}

    def _first_losses(self, oracle: Oracle, attack: Attack, x: Tensor, sample: ImageSource) -> list[Tensor]:
        """Return the losses at each image's first two queries, (draws, images) float64 both."""
        y = sample.labels.to(self.device)
        keys = [rng.image_seed(self.engine.seed, image_id) for image_id in sample.ids]
        seed = torch.tensor(keys, dtype=torch.int64, device=self.device)
        state = {"x": x, "y": y, "seed": seed, "budget": torch.full_like(y, self.engine.budget)}
        state |= draw_targets(attack, y, seed, self.engine.classes, self.engine.starting_points)
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
    return not math.isclose(now["clean_margin"], before["clean_margin"], rel_tol=_ROUNDING, abs_tol=_ROUNDING)


def spread(positions: list[int], count: int) -> list[int]:
    """Return so many of the positions, evenly spread."""
    if len(positions) <= count:
        return positions
    return [positions[i * len(positions) // count] for i in range(count)]

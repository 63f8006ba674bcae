"""Re-evaluation: fresh draws at the final points of a submitted standard evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rfdlight.attacks.base import Attack
from rfdlight.core import rng
from rfdlight.core.norms import Norm
from rfdlight.core.tensors import Columns
from rfdlight.data.base import ImageData
from rfdlight.data.conversion import unit_range
from rfdlight.defenses.base import Defense
from rfdlight.engine.config import MOST_ROWS
from rfdlight.errors import expect, shown
from rfdlight.evaluation.config import Passes, Subject
from rfdlight.evaluation.evaluate import prepared
from rfdlight.evaluation.fingerprint import images_digest
from rfdlight.evaluation.standard import StageConfig
from rfdlight.records import images
from rfdlight.records.leaderboard import Digests, Draws, Overturned, Reevaluation, today
from rfdlight.records.records import Record
from rfdlight.records.standard import Settings, Standard
from rfdlight.victims.digest import weights_digest
from rfdlight.victims.resolve import LoadedVictim


class Submitted(Attack):
    """Submits given points, one per image, whose only query is the point itself.

    Args:
        points: (C, H, W) each, by image id.
        seed: Seed of the evaluation, which keys the images.
        eps: Radius of the ball in pixel units, > 0.
        norm: Norm of the ball.
    """

    access = "decision"
    norms = ("linf", "l2")

    def __init__(self, points: Mapping[str, Tensor], seed: int, eps: float, norm: Norm) -> None:
        super().__init__(eps=eps, norm=norm)
        self._points = {rng.image_seed(seed, name): point for name, point in points.items()}

    def options(self) -> str:
        return f"{len(self._points)} points"

    def init(self, x: Tensor, y: Tensor, seed: Tensor) -> Columns:
        return {}

    def ask(self, state: Columns) -> Tensor:
        return self.best(state)

    def tell(self, state: Columns, points: Tensor, answer: Tensor) -> None:
        """Nothing depends on the answer."""

    def best(self, state: Columns) -> Tensor:
        return torch.stack([self._points[key] for key in state["seed"].tolist()]).to(state["x"])


def reevaluate(
    standard: Standard,
    digests: Digests,
    victim: LoadedVictim,
    data: ImageData,
    defense: Defense | Sequence[Defense] = (),
    points: Path | None = None,
    seed: int = 0,
) -> Reevaluation:
    """Evaluate the clean images of a standard evaluation and the final points with fresh draws.

    Each verdict is that of the engine's final test, at the level of a stage. An image that the run found misclassified
    has its clean image as its final point.

    Args:
        standard: The evaluation, read from its folder.
        digests: Of the weights and the images that it claims.
        victim: The victim.
        data: Its data, of which the evaluation attacked some images.
        defense: Its defense, or several.
        points: File of final points instead of those that the run kept, see `rfdlight.records.images.read_points`.
        seed: Seed of the draws, >= 0. A submitter who knows it beforehand can search for points that it favours.

    Raises:
        UserError: If victim, images or defense are not the run's, a point is missing, is of no image of the run, or
            lies outside the ball or [0, 1], or the victim fails on an image.
    """
    settings = standard.settings
    standard.check_version()
    names = sorted(standard.ids)
    submitted = _kept(standard) if points is None else images.read_points(points)
    hint = "run with --model.keep_images null" if points is None else "give one for each image"
    strange = next((name for name in submitted if name not in standard.records), None)
    expect(strange is None, "points", "those of the run's images", f"one of an unknown image {shown(strange)}")
    missing = [name for name in names if name not in submitted]
    expect(not missing, "points", f"those of {len(names):,} images", f"none of {', '.join(missing[:1])}", hint)
    count = len(settings.stages)
    config = StageConfig(budget=1, criterion="never", sanity_checks=False, seed=seed, stages=count, left=count)
    with prepared(victim, data, defense, None, config.given_rows) as made:
        _check_images(made.data, names, settings)
        given = {name: torch.from_numpy(submitted[name]) for name in names}
        attack = Submitted(given, seed, settings.eps, settings.norm)
        _check_subject(made.subject(attack, names), config, settings, digests)
        _check_points(made.data.only(names), attack, given)
        run = made.attack(attack, config, ids=names)
    assert run is not None, "one process leads itself"
    failed = next(iter(run.facts.failed.items()), None)
    expect(failed is None, "victim", "answers to every image and point", failed)
    found = run.summary.mean_logits
    return Reevaluation(
        clean=found.clean,
        robust=found.robust,
        robust_lower=found.robust_lower,
        overturned=_overturned(standard.records, run.by_id),
        draws=Draws.of(run.records),
        points=_points_digest(names, submitted),
        seed=seed,
        date=today(),
    )


def _kept(standard: Standard) -> dict[str, np.ndarray]:
    """Return the final points that a run kept, (C, H, W) by image id: of each image, that of the deciding stage."""
    kept: list[dict[str, np.ndarray]] = []
    for stage in standard.stages:
        path = (stage.folder or Path()) / images.FILE
        kept.append(images.read_points(path) if path.exists() else {})
    return standard.decided(kept)


def _check_images(data: ImageData, names: Sequence[str], settings: Settings) -> None:
    known = frozenset(data.attacked().ids)
    strange = next((name for name in names if name not in known), None)
    expect(
        strange is None,
        "data",
        f"the images of {settings.data}",
        f"{data.describe()}, where {shown(strange)} is not attacked",
        "give the --data options of the run",
    )


def _check_subject(subject: Subject, config: StageConfig, settings: Settings, digests: Digests) -> None:
    """Refuse another victim, other images and another defense than those of the run."""
    described = subject.settings(config, Passes())
    expect(described["defense"] == settings.defense, "defense", settings.defense, described["defense"])
    found = {
        "victim": (weights_digest(subject.victim, attributes=False), digests.weights, "weights"),
        "data": (images_digest(subject.data.attacked()), digests.images, "images"),
    }
    for name, (digest, claimed, kind) in found.items():
        expect(digest == claimed, name, f"the {kind} of the run, digest {claimed[:12]}", digest[:12])


def _check_points(data: ImageData, attack: Attack, points: Mapping[str, Tensor]) -> None:
    """Refuse points of another shape, outside [0, 1], or outside the ball."""
    source, threat = data.attacked(), attack.threat
    for start in range(0, len(source), MOST_ROWS):
        positions = list(range(start, min(start + MOST_ROWS, len(source))))
        for x, name in zip(unit_range(source.read(positions)), source.ids[start:], strict=False):
            point = points[name]
            where = f"the point of {name}"
            expect(point.shape == x.shape, where, f"the shape {tuple(x.shape)}", tuple(point.shape))
            low, high = point.min().item(), point.max().item()
            expect(low >= 0 and high <= 1, where, "pixels in [0, 1]", f"from {low:.4g} to {high:.4g}")
            inside = bool(threat.contains(x[None], point[None]))
            distance = threat.distance(x[None], point[None]).item()
            expect(inside, where, f"a distance of at most {threat.eps:g} in {threat.norm}", f"{distance:.6g}")


def _overturned(before: Mapping[str, Record], now: Mapping[str, Record]) -> Overturned:
    """Count the images that are right in both, and robust in one alone."""
    pairs = [(before[name], now[name]) for name in before if before[name].clean_correct and now[name].clean_correct]
    return Overturned(
        to_robust=sum(new.is_robust and not old.is_robust for old, new in pairs),
        to_adversarial=sum(old.is_robust and not new.is_robust for old, new in pairs),
    )


def _points_digest(names: Sequence[str], points: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + points[name].tobytes())
    return digest.hexdigest()

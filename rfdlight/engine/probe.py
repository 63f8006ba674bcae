"""Probe of a victim: whether it is random, and whether an answer depends on the other images of its batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import ttest_ind
from torch import Tensor

from rfdlight.engine.failures import OutOfMemory, VictimError
from rfdlight.engine.oracle import Oracle
from rfdlight.errors import UserError

_PASSES = 3  # forward passes over equal batches; the first two that differ end the comparison
_SUM_ERROR = 0.01  # largest distance from 1 of the sum of probabilities in half precision
_DRAWS = 8  # forward passes over each of two batches that have to confirm a difference between them
_LEVEL = 0.001  # significance level of that comparison, over all images together
# Relative to the range of the image's logits:
_ROUNDING = 1e-3  # largest change of a logit that counts as rounding
_NEAR = 0.2  # largest margin of an image near the decision boundary
_TOLERATED = 0.1  # largest tolerated effect of the other images of a batch


@dataclass(frozen=True)
class Behaviour:
    """How a victim answers equal images in several forward passes."""

    random: bool  # whether any two answers to the same image differed
    batch_effect: float = 0.0  # largest change of a logit beside other images, in ranges of logits; 0 if it is rounding
    probabilities: bool = False  # whether the answers look like probabilities instead of logits


def changed(before: Tensor, after: Tensor) -> Tensor:
    """Return which logits, (rows, classes) both, differ by more than rounding, (rows,) bool."""
    return _effect(before, after) > _ROUNDING


def near_boundary(logits: Tensor) -> Tensor:
    """Return where the two largest logits of a row, (rows, classes), are within a fifth of its range, (rows,) bool."""
    top = logits.topk(2, 1).values
    return top[:, 0] - top[:, 1] < _NEAR * (top[:, 0] - logits.amin(1))


def probe(oracle: Oracle, points: Tensor) -> Behaviour:
    """Evaluate the same images (rows, C, H, W) several times, in equal batches and beside other images.

    Raises a UserError if the answers to an image depend on the other images of its batch by more than a tenth of the
    range of its logits, and a VictimError if the victim fails on each of the images alone.
    """
    trials = [points, *points.split(1)] if len(points) > 1 else [points]
    while True:
        try:
            return _probe(oracle, trials[0][: oracle.batch_size])
        except OutOfMemory:
            continue
        except VictimError as error:
            trials = trials[1:]
            if not trials or error.together:
                raise


def _probe(oracle: Oracle, points: Tensor) -> Behaviour:
    first = logits_of(oracle, points)
    random = any(not torch.equal(first, logits_of(oracle, points)) for _ in range(_PASSES - 1))
    probabilities = bool((first >= 0).all() and ((first.sum(1) - 1).abs() < _SUM_ERROR).all())
    if oracle.batch_size == 1:
        return Behaviour(random, probabilities=probabilities)
    measure = _random_effect if random else _steady_effect
    try:
        effect = measure(oracle, points, first)
    except VictimError:  # on the made-up images: nothing is known about the batch
        effect = 0.0
    if effect is None:
        return Behaviour(random=True, probabilities=probabilities)
    if effect > _TOLERATED:
        raise UserError(
            f"the victim's answer to an image depends on the other images of its batch: a logit changes by "
            f"{effect:.0%} of their range; use running statistics (eval mode) in its normalisation layers, draw noise "
            "without a fixed seed, or --model.batch_size 1"
        )
    return Behaviour(random or effect > 0, effect, probabilities)


def logits_of(oracle: Oracle, points: Tensor) -> Tensor:
    """Return the logits of images outside of an attack, (rows, classes), by a forward pass of the criterion."""
    clock = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    return oracle.scores(points, clock, "criterion")


def _halves(oracle: Oracle, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first half of the images, and other images that may stand beside it in a batch."""
    kept = points[: (len(points) + 1) // 2]
    return kept, (1 - kept)[: oracle.batch_size - len(kept)]


def _steady_effect(oracle: Oracle, points: Tensor, before: Tensor) -> float | None:
    """Return the largest relative change of a logit beside other images, 0 if it is rounding, None if it is noise.

    The images also move to other places in the batch, where noise that restarts from one seed in every pass differs.
    """
    kept, others = _halves(oracle, points)
    batch = torch.cat([others, kept])
    after = logits_of(oracle, batch)
    effect = float(_effect(before[: len(kept)], after[len(others) :]).max())
    if effect <= _ROUNDING:
        return 0.0
    # A victim that chooses between two networks at random, pass by pass, may have been steady so far.
    steady = all(
        torch.equal(before, logits_of(oracle, points)) and torch.equal(after, logits_of(oracle, batch))
        for _ in range(_DRAWS)
    )
    return effect if steady else None


def _random_effect(oracle: Oracle, points: Tensor, _: Tensor) -> float:
    """Return the same for a random victim, 0 if it is rounding or noise.

    Noise from torch's global generators is replayed, so that it does not hide a change. Then fresh evaluations of both
    batches have to differ in the mean: a victim with noise for some rows only gets other noise beside other images.
    """
    kept, others = _halves(oracle, points)
    batch = torch.cat([kept, others])
    with oracle.same_noise():
        before, after = logits_of(oracle, points)[: len(kept)], logits_of(oracle, batch)[: len(kept)]
    confirmed = changed(before, after).any() and _means_differ(oracle, points, batch, len(kept))
    return float(_effect(before, after).max()) if confirmed else 0.0


def _means_differ(oracle: Oracle, one: Tensor, other: Tensor, kept: int) -> bool:
    """Return whether the mean margins of the first `kept` images differ between two batches."""
    answers: tuple[list[Tensor], list[Tensor]] = [], []
    for draw in range(_DRAWS):
        # Alternate the order, so that a steady drift of the victim cancels.
        for which in (0, 1) if draw % 2 else (1, 0):
            answers[which].append(logits_of(oracle, (one, other)[which])[:kept])
    before, after = (torch.stack(batch).double() for batch in answers)
    best = before.mean(0).argmax(1).expand(_DRAWS, -1)[..., None]
    margins = [(logits.gather(2, best)[..., 0] - logits.mean(2)).cpu().numpy() for logits in (before, after)]
    return bool((ttest_ind(*margins, equal_var=False).pvalue * kept <= _LEVEL).any())


def _effect(before: Tensor, after: Tensor) -> Tensor:
    """Return the largest change of each row's logits, relative to their range, (rows,)."""
    spread = torch.maximum(before.amax(1) - before.amin(1), after.amax(1) - after.amin(1))
    return (before - after).abs().amax(1) / spread.clamp_min(torch.finfo(before.dtype).tiny)

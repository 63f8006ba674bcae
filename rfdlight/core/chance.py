"""Detection of clean accuracy at chance level, which means that images or labels differ from the victim's training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import scipy  # which imports scipy.stats where it is used first: that takes a second

if TYPE_CHECKING:
    from torch import Tensor

CAUSES = "labels shifted by one, pixels scaled twice, missing normalisation, random weights, or another class order"
"""Usual causes of accuracy at chance level."""

_FEW = 4
"""Classes among the labels per predicted class, from which the predictions have collapsed."""
_LEVEL = 0.05


def is_chance(right: int, total: int, classes: int) -> bool:
    """Return whether the number of correct predictions is not significantly above guessing.

    False if all images could be correct by chance, or if the accuracy is closer to 1 than to chance.
    """
    chance = 1 / classes
    if not total or chance**total > _LEVEL or right / total >= (1 + chance) / 2:
        return False
    return float(scipy.stats.binomtest(right, total, chance, alternative="greater").pvalue) > _LEVEL


def chance_warning(predictions: Tensor, labels: Tensor, classes: int) -> str | None:
    """Return one line if a victim of so many classes guesses or predicts few classes only.

    `predictions` and `labels` are (N,) int64.
    """
    right, total = int((predictions == labels).sum()), len(labels)
    predicted, present = len(predictions.unique()), len(labels.unique())
    if is_chance(right, total, classes):
        return f"{found(right, total, classes)}; likely causes: {CAUSES}"
    if _FEW * predicted > present:
        return None
    return (
        f"{right:,} of {total:,} clean images are classified correctly, and the predictions are of {predicted} "
        f"classes, the labels of {present}: pixels scaled twice, missing normalisation, or random weights"
    )


def found(right: int, total: int, classes: int) -> str:
    """Return the accuracy at chance level in words."""
    return (
        f"{right:,} of {total:,} clean images are classified correctly, not significantly more than by guessing among "
        f"{classes:,} classes"
    )

"""Detection of clean accuracy at chance level, which means that images or labels differ from the victim's training."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from torch import Tensor

CAUSES = "labels shifted by one, pixels scaled twice, missing normalisation, random weights, or another class order"
"""Usual causes of accuracy at chance level."""

_COLLAPSED = "pixels scaled twice, missing normalisation, or random weights"
_FEW = 4
"""Classes among the labels per predicted class, from which the predictions have collapsed."""
_LEVEL = 0.05
_MATCHED = 0.7
"""Share of the images that a shift or a permutation of the classes must explain."""
_PER_CLASS = 3
"""Images per class, on average, that are needed to detect a permutation of the classes."""


def is_chance(right: int, total: int, classes: int) -> bool:
    """Return whether the number of correct predictions is not significantly above guessing.

    False if all images could be correct by chance, or if the accuracy is closer to 1 than to chance.
    """
    chance = 1 / classes
    if not total or chance**total > _LEVEL or right / total >= (1 + chance) / 2:
        return False
    return float(binomtest(right, total, chance, alternative="greater").pvalue) > _LEVEL


def chance_warning(predictions: Tensor, labels: Tensor, classes: int) -> str | None:
    """Return one line, with the likeliest cause, if a victim guesses or predicts few classes only.

    Args:
        predictions: (N,) int64, predicted classes of clean images.
        labels: (N,) int64.
        classes: Number of classes of the victim.
    """
    right, total = int((predictions == labels).sum()), len(labels)
    predicted, present = len(predictions.unique()), len(labels.unique())
    if is_chance(right, total, classes):
        cause = _shift(predictions, labels, classes) or _permutation(predictions, labels, classes)
        if cause is None and predicted == 1:
            cause = f"every prediction is class {int(predictions[0])}: {_COLLAPSED}"
        return f"{found(right, total, classes)}; {cause or f'likely causes: {CAUSES}'}"
    if _FEW * predicted > present:
        return None
    return (
        f"{right:,} of {total:,} clean images are classified correctly, and the predictions are of {predicted} "
        f"classes, the labels of {present}: {_COLLAPSED}"
    )


def found(right: int, total: int, classes: int) -> str:
    """Return the accuracy at chance level in words."""
    return (
        f"{right:,} of {total:,} clean images are classified correctly, not significantly more than by guessing among "
        f"{classes:,} classes"
    )


def _shift(predictions: Tensor, labels: Tensor, classes: int) -> str | None:
    for shift, sign in ((1, "+"), (-1, "-")):
        matched = int((predictions == (labels + shift) % classes).sum())
        if matched >= _MATCHED * len(labels):
            return (
                f"the predictions are label {sign} 1 on {matched:,} of them: labels shifted by one, compare the first "
                "class of the data with the first class of the training"
            )
    return None


def _permutation(predictions: Tensor, labels: Tensor, classes: int) -> str | None:
    if len(labels) < _PER_CLASS * classes or len(predictions.unique()) < 2:
        return None
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels.numpy(), predictions.numpy()), 1)
    matched = int(counts[linear_sum_assignment(-counts)].sum())
    if matched < _MATCHED * len(labels):
        return None
    return f"in another class order {matched:,} of them are correct: compare the class order with that of the training"

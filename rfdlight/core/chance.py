"""Clean accuracy at chance level, which says that images or labels are not as in the victim's training."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from torch import Tensor

CAUSES = "labels shifted by one, pixels scaled twice, missing normalisation, random weights, or another class order"
"""The usual reasons for accuracy at chance level."""

_COLLAPSED = "pixels scaled twice, missing normalisation, or random weights"
_FEW = 4
"""Classes among the labels for each one that is predicted, from which predictions have collapsed."""
_LEVEL = 0.05
_MATCHED = 0.7
"""Share of the images that one order of the classes has to explain."""
_PER_CLASS = 3
"""Images per class, on average, from which an order of the classes can be told."""


def is_chance(right: int, total: int, classes: int) -> bool:
    """Return whether so many right answers are no more than guessing among the classes explains.

    Not where all images could be right by chance, nor where accuracy is nearer to 1 than to chance.
    """
    chance = 1 / classes
    if not total or chance**total > _LEVEL or right / total >= (1 + chance) / 2:
        return False
    return float(binomtest(right, total, chance, alternative="greater").pvalue) > _LEVEL


def chance_warning(predictions: Tensor, labels: Tensor, classes: int) -> str | None:
    """Return one line that says that a victim guesses, or answers few classes alone, with the likeliest cause.

    Args:
        predictions: (N,) int64, the classes that the victim answers at clean images.
        labels: (N,) int64.
        classes: Of the victim.
    """
    right, total = int((predictions == labels).sum()), len(labels)
    predicted, present = len(predictions.unique()), len(labels.unique())
    if not is_chance(right, total, classes):
        if _FEW * predicted > present:
            return None
        return (
            f"{right:,} of {total:,} clean images are classified correctly, and every prediction is one of {predicted} "
            f"classes, the labels are of {present}: {_COLLAPSED}"
        )
    cause = _shift(predictions, labels, classes) or _order(predictions, labels, classes) or _constant(predictions)
    return f"{found(right, total, classes)}; {cause or f'likely causes: {CAUSES}'}"


def found(right: int, total: int, classes: int) -> str:
    """Return what was found, in words."""
    return (
        f"{right:,} of {total:,} clean images are classified correctly, not significantly more than guessing among "
        f"{classes:,} classes does"
    )


def _shift(predictions: Tensor, labels: Tensor, classes: int) -> str | None:
    for shift, sign in ((1, "+"), (-1, "-")):
        matched = int((predictions == (labels + shift) % classes).sum())
        if matched >= _MATCHED * len(labels):
            return (
                f"the predictions are label {sign} 1 on {matched:,} of them: labels shifted by one, compare the first "
                "class of the data with the first of the training"
            )
    return None


def _order(predictions: Tensor, labels: Tensor, classes: int) -> str | None:
    """Look for one order of the classes in which the predictions are right."""
    if len(labels) < _PER_CLASS * classes or len(predictions.unique()) < 2:
        return None
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels.numpy(), predictions.numpy()), 1)
    matched = int(counts[linear_sum_assignment(-counts)].sum())
    if matched < _MATCHED * len(labels):
        return None
    return (
        f"in another class order {matched:,} of them are correct: compare the order of the classes with the training's"
    )


def _constant(predictions: Tensor) -> str | None:
    if len(predictions.unique()) > 1:
        return None
    same = int(predictions[0])
    return f"every prediction is class {same}: {_COLLAPSED}"

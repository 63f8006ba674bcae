"""Victims outside torch: pixels as a NumPy array in, logits as a NumPy array out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rfdlight.errors import UserError, expect, shown
from rfdlight.victims.digest import Identified

Outputs = Literal["logits", "probabilities"]
"""What a victim outside torch returns."""

FLOOR = 1e-12
"""Least probability of a class; smaller ones, whose logarithm would be minus infinity, are raised to it."""

_SUM_ERROR = 0.01
"""Largest distance from 1 of the sum of probabilities, some of which are rounded to few digits."""


class ArrayVictim(Identified):
    """Base class of victims outside torch, which have no parameters, no gradients and no layers inside.

    Subclasses define `answer`.

    Args:
        identity: One line that differs between two victims.
        outputs: "logits", or "probabilities", which are replaced by their logarithms.
        classes: Number of classes, None if the data decide it.

    Shape:
        (rows, C, H, W) float32 in [0, 1] to (rows, classes) float32, on the device of the pixels.

    Raises:
        UserError: In a forward pass, if an answer is no such array.
    """

    def __init__(self, identity: str, outputs: Outputs = "logits", classes: int | None = None) -> None:
        super().__init__(identity)
        expect(outputs in ("logits", "probabilities"), "outputs", "'logits' or 'probabilities'", repr(outputs))
        self.outputs = outputs
        self.classes = classes

    @abstractmethod
    def answer(self, x: np.ndarray) -> Any:
        """Return the logits or probabilities, (rows, classes), of pixels, (rows, C, H, W) float32 in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        scores = self._array(self.answer(x.detach().to("cpu", torch.float32).contiguous().numpy()), len(x))
        if self.outputs == "probabilities":
            scores = _log_probabilities(scores)
        return torch.from_numpy(scores.astype(np.float32)).to(x.device)  # a copy, which the victim does not keep

    def _array(self, answer: Any, rows: int) -> np.ndarray:
        """Return an answer as an array of floats (rows, classes)."""
        try:
            found = np.asarray(answer)
        except Exception:  # lists of unequal lengths, tensors on another device
            found = np.asarray(None)
        fits = found.dtype.kind == "f" and found.ndim == 2 and len(found) == rows
        if not fits or self.classes not in (None, found.shape[1]):
            got = type(answer).__name__ if found.dtype.kind == "O" else f"{found.dtype} of shape {found.shape}"
            form = f"({rows}, {self.classes or 'classes'})"
            raise UserError(
                f"{self.identity}: expected {self.outputs} of shape {form}, floats, for {rows} images, got {got}"
            )
        return found


def outside_torch(victim: nn.Module) -> ArrayVictim | None:
    """Return the first part of a victim that is outside torch, None if there is none."""
    return next((module for module in victim.modules() if isinstance(module, ArrayVictim)), None)


class Wrapped(ArrayVictim):
    """A callable on batches of arrays as a module; see `wrap`."""

    def __init__(self, predict: Callable[[np.ndarray], Any], classes: int, outputs: Outputs, identity: str) -> None:
        super().__init__(identity, outputs, classes)
        self.predict = predict

    def answer(self, x: np.ndarray) -> Any:
        return self.predict(x)


def wrap(
    predict: Callable[[np.ndarray], Any],
    classes: int,
    *,
    outputs: Outputs = "logits",
    description: str | None = None,
) -> nn.Module:
    """Wrap a function from a batch of pixels to logits, both NumPy arrays, as a victim.

    The victim can be evaluated as any other by attacks that read scores or labels. Attacks that need gradients, and
    noise in hidden layers, refuse it.

    Args:
        predict: From pixels, (rows, C, H, W) float32 in [0, 1], to logits, (rows, classes) of any floats. It is called
            with up to `batch_size` rows, some of which may be padding. Each row's answer must not depend on the others.
        classes: Number of classes, >= 2.
        outputs: "logits", or "probabilities", whose logarithms are the logits; those below 1e-12 count as 1e-12.
        description: Words for the function and its weights, by which a resumed run knows it again; by default its name.

    Raises:
        UserError: If `predict` is no callable, or `classes` or `outputs` is out of range.

    Example:
        >>> import numpy as np
        >>> victim = wrap(lambda x: x.reshape(len(x), -1)[:, :2], classes=2)
        >>> victim(torch.ones(1, 1, 2, 2))
        tensor([[1., 1.]])
    """
    expect(callable(predict), "predict", "a function of a batch of pixels", type(predict).__name__)
    if isinstance(predict, nn.Module):
        raise UserError("predict: expected a function on NumPy arrays, got a torch.nn.Module, which needs no wrapping")
    whole = isinstance(classes, int) and not isinstance(classes, bool)
    expect(whole and classes >= 2, "classes", "a whole number of at least 2", repr(classes))
    name = getattr(predict, "__qualname__", type(predict).__qualname__)
    return Wrapped(predict, classes, outputs, f"{shown(description or f'the callable {name}')}, weights unknown").eval()


def _log_probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the logarithms of probabilities, (rows, classes); rows with NaN keep it."""
    with np.errstate(invalid="ignore"):
        total = scores.sum(1, dtype=np.float64)
        wrong = (np.abs(total - 1) > _SUM_ERROR) | (scores < -_SUM_ERROR).any(1)
    if wrong.any():
        row = scores[wrong][0]
        raise UserError(
            f"outputs: expected probabilities, of sum 1 in each row, got a row from {row.min():.4g} to {row.max():.4g} "
            f"of sum {row.sum():.4g}; logits need outputs='logits'"
        )
    return np.log(np.maximum(scores, FLOOR, dtype=np.float64))

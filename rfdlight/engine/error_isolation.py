"""Error isolation: find the images on which the victim fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from rfdlight.core.tensors import Columns, indices, take
from rfdlight.engine.failures import OutOfMemory, VictimError
from rfdlight.engine.ledger import Ledger
from rfdlight.engine.oracle import Oracle, Purpose
from rfdlight.errors import UserError

Forward = Callable[[Columns], tuple[Tensor, ...]]
"""Evaluates some rows of a batch; each of the results has one row for every row of the batch."""


@dataclass(frozen=True)
class Answered:
    """Results of a batch: those of every row of an image that did not fail."""

    rows: Tensor  # (answered,) int64, positions of these rows, in rising order
    values: tuple[Tensor, ...]  # results at these rows; empty if there are none
    failed: dict[int, str]  # the reason for each image that failed


class ErrorIsolation:
    """Evaluates batches of images, and finds those on which the victim fails by bisection.

    When a pass raises, all of its images are suspects; when its answer has NaN or infinity, the images of these rows. A
    single suspect fails. Several suspects are evaluated again in halves, and so is the rest of the pass, all in passes
    of the same shape. Where no image is the cause, as when a server gives no answer, all images of the pass fail at
    once: a search among them would multiply the time. An image is charged only for its last answer; its other answered
    rows, and all answered rows of an image that failed, are padding. On out-of-memory the batch is split and retried.

    When every image of a pass fails, the victim itself may be broken. It is evaluated again at the first point that it
    ever answered for the same purpose, and the run ends if it fails there too. If it has answered none so far, the run
    ends with the second image.
    """

    def __init__(self, oracle: Oracle, ledger: Ledger) -> None:
        self._oracle = oracle
        self._ledger = ledger
        self._known: dict[Purpose, Columns] = {}
        self._failures: Counter[Purpose] = Counter()

    def evaluate(self, purpose: Purpose, batch: Columns, forward: Forward) -> Answered:
        """Evaluate a batch by `forward`; raise a UserError if the victim is broken or memory is too small.

        The column "image", (rows,) int64, names the image of each row; there are at most the oracle's batch size.
        """
        before, image = self._oracle.spare, batch["image"]
        pending = [indices(len(image), image.device)]
        answers: list[tuple[Tensor, tuple[Tensor, ...]]] = []
        failed: dict[int, str] = {}
        message = ""
        while pending:
            rows = pending.pop()
            if len(rows) > self._oracle.batch_size:
                pending += rows.split(self._oracle.batch_size)
                continue
            # Neither error is kept: its frames hold the tensors of the pass that failed.
            try:
                answers.append((rows, forward(batch if len(rows) == len(image) else take(batch, rows))))
            except OutOfMemory:
                pending.append(rows)
            except VictimError as error:
                message = str(error)
                suspects = (image[rows] if error.rows is None else image[rows][error.rows]).unique()
                if len(suspects) == 1 or error.together:
                    failed |= dict.fromkeys(suspects.tolist(), error.reason)
                if not error.together:
                    pending += _retried(rows, image[rows], suspects)
        answered = _joined(answers, image, failed)
        lost = sum(len(rows) for rows, _ in answers) - len(answered.rows)
        self._failures[purpose] += len(failed)
        if not len(answered.rows):
            lost += self._check_victim(purpose, forward, message)
        elif purpose not in self._known:
            self._known[purpose] = take(batch, answered.rows[:1])
        self._ledger.pad(self._oracle.spare - before + lost)
        return answered

    def _check_victim(self, purpose: Purpose, forward: Forward, message: str) -> int:
        """Evaluate the point that the victim answered first, if there is one; return the number of rows evaluated."""
        known = self._known.get(purpose)
        if known is None:
            if self._failures[purpose] > 1:
                raise UserError(message)
            return 0
        while True:
            with suppress(OutOfMemory):
                forward(known)
                return 1


def _retried(rows: Tensor, images: Tensor, suspects: Tensor) -> list[Tensor]:
    """Return the rows to evaluate again: those of other images, and those of each half of several suspects."""
    others = rows[~torch.isin(images, suspects)]
    retried = [others] if len(others) else []
    if len(suspects) > 1:
        half = len(suspects) // 2
        retried += [rows[torch.isin(images, part)] for part in (suspects[half:], suspects[:half])]
    return retried


def _joined(answers: list[tuple[Tensor, tuple[Tensor, ...]]], image: Tensor, failed: dict[int, str]) -> Answered:
    """Join the answers of several passes, without those of images that failed in one of them."""
    if not answers:
        return Answered(image[:0], (), failed)
    if len(answers) == 1 and not failed:
        return Answered(*answers[0], failed)
    rows = torch.cat([rows for rows, _ in answers])
    kept = ~torch.isin(image[rows], torch.tensor(list(failed), dtype=image.dtype, device=image.device))
    order = rows.argsort()
    order = order[kept[order]]
    values = tuple(torch.cat(parts)[order] for parts in zip(*(parts for _, parts in answers), strict=True))
    return Answered(rows[order], values, failed)

"""Which images make the victim fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from rfdlight.core.tensors import Columns, take
from rfdlight.engine.failures import OutOfMemory, VictimError
from rfdlight.engine.ledger import Ledger
from rfdlight.engine.oracle import Oracle, Purpose
from rfdlight.errors import UserError

Forward = Callable[[Columns], tuple[Tensor, ...]]
"""Asks the oracle about some rows of a question; each of the answers has one row for every row asked."""


@dataclass(frozen=True)
class Answered:
    """What came back.

    Attributes:
        rows: (answered,) int64, the rows of the question that were answered, in rising order: all of every image
            that did not fail, and none of one that did.
        values: The answers to these rows; empty if there are none.
        failed: The reason for each image that failed.
    """

    rows: Tensor
    values: tuple[Tensor, ...]
    failed: dict[int, str]


class ErrorIsolation:
    """Asks about many images in one forward pass, and finds those on which the victim fails.

    When a pass raises, all of its images are suspects; when it answers NaN or infinity, those that it answers so. A
    single suspect fails. Several are asked again in halves, so that none fails for the fault of another, and the rest
    of the pass is asked again as well, all in passes of the same shape. An image is charged for the answer that it
    gets in the end. Rows that the victim answered in a pass that failed are padding, and so are those of this tick that
    belong to an image that failed. A pass in which the victim raises is in no count: a hook on it does not see it.

    A pass that memory was too small for is asked again in as many parts as it takes.

    When every image of a pass fails, the victim may be what is broken. It is asked again at the first point that it
    ever answered for the same purpose, and the run ends if it fails there too; if it has answered none so far, the
    run ends with the second image.

    Args:
        oracle: Owns the victim.
        ledger: Gets the padding.
    """

    def __init__(self, oracle: Oracle, ledger: Ledger) -> None:
        self._oracle = oracle
        self._ledger = ledger
        self._known: dict[Purpose, Columns] = {}
        self._failures: Counter[Purpose] = Counter()

    def ask(self, purpose: Purpose, question: Columns, forward: Forward) -> Answered:
        """Ask about some rows.

        Args:
            purpose: Of the question.
            question: What `forward` reads, and "image": (rows,) int64, whose row each is. At least one row, and at
                most the oracle's batch size.
            forward: Asks.

        Raises:
            UserError: If the victim is broken, see above, or memory is too small for the smallest pass.
        """
        before = self._oracle.spare
        image = question["image"]
        pending = [torch.arange(len(image), device=image.device)]
        answers: list[tuple[Tensor, tuple[Tensor, ...]]] = []
        failed: dict[int, str] = {}
        message = ""
        while pending:
            rows = pending.pop()
            if len(rows) > self._oracle.batch_size:
                pending += rows.split(self._oracle.batch_size)
                continue
            part = question if len(rows) == len(image) else take(question, rows)
            # Neither error is kept: the frames that it holds hold the tensors of the pass that failed.
            try:
                answers.append((rows, forward(part)))
            except OutOfMemory:
                pending.append(rows)
            except VictimError as error:
                message = str(error)
                blamed, suspects = _blame(rows, image[rows], error)
                failed |= dict.fromkeys(blamed, error.reason)
                pending += suspects
        answered = _joined(answers, image, failed)
        lost = sum(len(rows) for rows, _ in answers) - len(answered.rows)
        self._failures[purpose] += len(failed)
        if not len(answered.rows):
            lost += self._look_again(purpose, forward, message)
        elif purpose not in self._known:
            self._known[purpose] = take(question, answered.rows[:1])
        self._ledger.pad(self._oracle.spare - before + lost)
        return answered

    def _look_again(self, purpose: Purpose, forward: Forward, message: str) -> int:
        """Ask what was answered before, if anything was; return the rows that this took."""
        known = self._known.get(purpose)
        if known is None:
            if self._failures[purpose] > 1:
                raise UserError(message)
            return 0
        answer = None
        while answer is None:
            with suppress(OutOfMemory):
                answer = forward(known)
        return 1


def _blame(rows: Tensor, images: Tensor, error: VictimError) -> tuple[list[int], list[Tensor]]:
    """Return the image that a pass failed on, if that is known, and the rows to be asked again."""
    suspects = (images if error.rows is None else images[error.rows]).unique()
    others = rows[~torch.isin(images, suspects)]
    if len(suspects) == 1:
        return suspects.tolist(), [others] if len(others) else []
    half = len(suspects) // 2
    halves = [rows[torch.isin(images, part)] for part in (suspects[half:], suspects[:half])]
    return [], [others, *halves] if len(others) else halves


def _joined(answers: list[tuple[Tensor, tuple[Tensor, ...]]], image: Tensor, failed: dict[int, str]) -> Answered:
    """Put the answers of several passes together, without the images that failed in another one of them."""
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

"""One record per attacked image, as a typed object and as a line of JSON."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from rfdlight._io import read_bytes
from rfdlight.errors import UserError
from rfdlight.records.schema import Count, Fields, PositiveCount, check_part, descriptions, unseal

Verdict = Literal["robust", "adversarial", "undecided", "misclassified"]


class Record(Fields, frozen=True, kw_only=True):
    """The result of the attack on one image.

    Attributes:
        id: image id, <dataset>/<split>/<file name>
        label: class index
        target: target class of a targeted attack, or null
        attack: evaluations that chose the attack's next query
        gradient: evaluations with their gradient, of a white-box attack
        success_check: evaluations that only checked whether the attack has succeeded
        criterion: evaluations of the success criterion, never billed
        billed: queries billed, at most the budget
        candidates: queries in the ball whose answer was adversarial: a wrong label, or the target
        voted_candidates: candidates on which the success criterion took votes
        tested_candidates: candidates that a majority of the votes called adversarial, decided by a statistical test
        success_query: query at which the success criterion called the image adversarial, or null
        first_9_vote_success: first query whose candidate a majority of 9 votes called adversarial, or null
        clean_evaluations: evaluations of the clean image before the attack
        clean_wrong: clean evaluations with a wrong label
        clean_margin: margin of the mean logits of the clean image
        clean_prediction: class with the largest mean logit of the clean image; null in runs converted from schema 1
        final_evaluations: fresh evaluations of the final point
        final_adversarial: final evaluations whose answer was adversarial
        final_margin: attack loss at the mean logits of the final point: the label's margin, or minus the target's
        final_prediction: class with the largest mean logit of the final point; null in runs converted from schema 1
        verdict: robust, adversarial or undecided, by the mean logits of the final evaluations; misclassified if the
            label does not have the largest mean logit of the clean image: the image is not attacked
        linf: largest pixel change at the final point, in pixel units
        l2: Euclidean length of the change at the final point, in pixel units
        low: smallest pixel of the final point; null in runs converted from schema 1
        high: largest pixel of the final point; null in runs converted from schema 1
    """

    id: str
    label: Count
    target: Count | None
    attack: Count
    gradient: Count
    success_check: Count
    criterion: Count
    billed: Count
    candidates: Count
    voted_candidates: Count
    tested_candidates: Count
    success_query: Count | None
    first_9_vote_success: Count | None
    clean_evaluations: PositiveCount
    clean_wrong: Count
    clean_margin: float
    clean_prediction: Count | None
    final_evaluations: PositiveCount
    final_adversarial: Count
    final_margin: float
    final_prediction: Count | None
    verdict: Verdict
    linf: float
    l2: float
    low: float | None
    high: float | None

    def __post_init__(self) -> None:
        """Check the counts of parts against the counts of their wholes."""
        check_part("clean_wrong", self.clean_wrong, "clean evaluations", self.clean_evaluations)
        check_part("final_adversarial", self.final_adversarial, "final evaluations", self.final_evaluations)

    @property
    def clean_correct(self) -> bool:
        """Whether the mean logits classify the clean image correctly."""
        return self.verdict != "misclassified"

    @property
    def is_robust(self) -> bool:
        """Whether the image counts as robust: classified correctly, and not adversarial at the final point."""
        return self.verdict in ("robust", "undecided")

    @property
    def queries(self) -> int:
        """Evaluations that the attack used: attack, gradient and success check."""
        return self.attack + self.gradient + self.success_check

    @property
    def evaluated_once(self) -> bool:
        """Whether single evaluations decided, as for a deterministic victim."""
        return self.clean_evaluations == 1


FIELDS = descriptions(Record)
"""The fields of a record and their meaning."""


def read_records(path: Path) -> list[Record]:
    """Read a file of records, ordered by id.

    Raises:
        UserError: The file cannot be read, or a line is damaged or no record.
    """
    try:
        lines = read_bytes(path).splitlines()
    except OSError as error:
        raise UserError(f"cannot read the records {path}: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(unseal(line, Record))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
    return in_order(records)


def in_order(records: Iterable[Record]) -> list[Record]:
    """Return the records ordered by id."""
    return sorted(records, key=lambda record: record.id)

"""One record per attacked image, as a typed object and as a line of JSON."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from rfdlight._io import read_bytes
from rfdlight.errors import UserError
from rfdlight.records.schema import Count, Fields, PositiveCount, check_part, descriptions, unseal

Verdict = Literal["robust", "adversarial", "undecided", "misclassified"]
CleanVerdict = Literal["right", "wrong", "undecided"]
MajorityVerdict = Literal["robust", "adversarial", "undecided"]

HEAVY_TAIL = 0.25
"""Share of the squared deviations of the margin, carried by one evaluation, above which the mean is undecided."""


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
        voted_candidates: candidates that got fresh evaluations
        tested_candidates: candidates that passed the screen of the success criterion and got its test
        success_query: query at which the success criterion called the image adversarial, or null
        first_9_vote_success: first query whose candidate a majority of 9 votes called adversarial, or null
        clean_evaluations: evaluations of the clean image before the attack
        clean_wrong: clean evaluations with a wrong label
        clean_margin: margin of the mean logits of the clean image
        clean_prediction: class with the largest mean logit of the clean image; null in runs converted from schema 1
        clean_verdict: right, wrong or undecided, by the mean logits of the clean evaluations; an image that is wrong is
            not attacked
        final_evaluations: fresh evaluations of the final point
        final_adversarial: final evaluations whose answer was adversarial
        final_margin: attack loss at the mean logits of the final point: the label's margin, or minus the target's
        final_prediction: class with the largest mean logit of the final point; null in runs converted from schema 1
        final_tail_share: share of the squared deviations of the margin that one final evaluation carries, on the other
            side of zero than the mean; from 0.25 on the mean is undecided, since rarer margins may outweigh it
        verdict: robust, adversarial or undecided, by the mean logits of the final evaluations; misclassified if
            clean_verdict is wrong
        majority_verdict: robust, adversarial or undecided, by whether most single answers at the final point are
            adversarial
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
    clean_verdict: CleanVerdict
    final_evaluations: PositiveCount
    final_adversarial: Count
    final_margin: float
    final_prediction: Count | None
    final_tail_share: Annotated[float, Meta(ge=0, le=1)]
    verdict: Verdict
    majority_verdict: MajorityVerdict
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
        """Whether the mean logits classify the clean image correctly, by the sign of their margin if undecided."""
        return self.clean_verdict == "right" or (self.clean_verdict == "undecided" and self.clean_margin >= 0)

    @property
    def is_robust(self) -> bool:
        """Whether the image counts as robust in the headline: undecided margins count by their sign."""
        by_sign = self.verdict == "robust" or (self.verdict == "undecided" and self.final_margin >= 0)
        return self.clean_correct and by_sign

    @property
    def is_decided(self) -> bool:
        """Whether neither the clean image nor the final point is undecided."""
        return "undecided" not in (self.clean_verdict, self.verdict)

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

"""One record per attacked image, as a typed object and as a line of JSON."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from rfdlight._io import read_bytes
from rfdlight.errors import UserError
from rfdlight.records.schema import Count, Fields, PositiveCount, check_part, unseal

Verdict = Literal["robust", "adversarial", "undecided", "misclassified"]
CleanVerdict = Literal["right", "wrong", "undecided"]
MajorityVerdict = Literal["robust", "adversarial", "undecided"]

HEAVY_TAIL = 0.25
"""Share of the squared deviations of the margin, carried by one evaluation, above which the mean is undecided."""


class InterimEvaluation(Fields, frozen=True, kw_only=True):
    """The evaluation of the point that the attack would have submitted after a number of queries."""

    queries: PositiveCount  # billed so far
    evaluations: PositiveCount  # fresh evaluations of the point
    margin: float  # attack loss at the mean logits
    verdict: Literal["robust", "adversarial", "undecided"]  # "adversarial" ends the attack


class Record(Fields, frozen=True, kw_only=True):
    """The result of the attack on one image; docs/reference/records.md explains the fields.

    `attack`, `gradient`, `success_check` and `criterion` count evaluations, `billed` counts queries. Margins are in
    logits, `linf`, `l2`, `low` and `high` in pixel units.
    """

    id: str  # <dataset>/<split>/<file name>
    label: Count
    target: Count | None  # class that a targeted attack must reach
    attack: Count  # evaluations that chose the attack's next query
    gradient: Count  # evaluations with their gradient
    success_check: Count  # evaluations that only checked whether the attack has succeeded
    criterion: Count  # evaluations of the success criterion, never billed
    billed: Count  # queries, at most the budget
    candidates: Count  # queries in the ball whose answer was adversarial
    voted_candidates: Count  # candidates that got fresh evaluations
    tested_candidates: Count  # candidates that passed the screen of the success criterion
    success_query: Count | None  # query at which the success criterion called the image adversarial
    first_9_vote_success: Count | None  # first query whose candidate a majority of 9 votes called adversarial
    clean_evaluations: PositiveCount  # of the clean image before the attack
    clean_wrong: Count  # clean evaluations with a wrong label
    clean_margin: float  # of the mean logits
    clean_prediction: Count | None  # class with the largest mean logit; None in runs converted from an earlier schema
    clean_verdict: CleanVerdict  # by the mean logits
    final_evaluations: PositiveCount  # fresh evaluations of the final point
    final_adversarial: Count  # final evaluations whose answer was adversarial
    final_margin: float  # of the mean logits: the label's margin, or minus the target's
    final_prediction: Count | None
    final_tail_share: Annotated[float, Meta(ge=0, le=1)] | None  # squared deviation of one contrary evaluation
    verdict: Verdict  # by the mean logits; an image that is misclassified before is not attacked
    majority_verdict: MajorityVerdict  # by most single answers
    linf: float  # change at the final point
    l2: float
    low: float | None  # smallest pixel of the final point; None in runs converted from an earlier schema
    high: float | None  # largest pixel of the final point
    interim: tuple[InterimEvaluation, ...] = ()  # of a random victim, in order; none in files of schema 3
    refused: Count = 0  # queries that a query policy refused to answer; billed
    accounts: PositiveCount = 1  # accounts that the attacker opened
    detected: Count = 0  # queries that a query policy detected
    first_detected: Count | None = None  # queries billed including the first of them

    def __post_init__(self) -> None:
        check_part("clean_wrong", self.clean_wrong, "clean evaluations", self.clean_evaluations)
        check_part("final_adversarial", self.final_adversarial, "final evaluations", self.final_evaluations)

    @property
    def clean_correct(self) -> bool:
        """Whether the clean image counts as right in the headline.

        An undecided one counts by the sign of its mean margin, and as right if the final verdict is "robust": the
        attack chose the final point, so the victim is no better there.
        """
        return self.clean_verdict == "right" or (
            self.clean_verdict == "undecided" and (self.clean_margin >= 0 or self.verdict == "robust")
        )

    @property
    def is_robust(self) -> bool:
        """Whether the image counts as robust in the headline, undecided margins by their sign."""
        by_sign = self.verdict == "undecided" and self.clean_correct and self.final_margin >= 0
        return self.verdict == "robust" or by_sign

    @property
    def is_decided(self) -> bool:
        """Whether neither the clean image nor the final point is undecided."""
        return "undecided" not in (self.clean_verdict, self.verdict)

    @property
    def is_heavy_tailed(self) -> bool:
        """Whether the final point is undecided and one evaluation carries much of the variance of its margin."""
        return self.verdict == "undecided" and (self.final_tail_share or 0) > HEAVY_TAIL

    @property
    def queries(self) -> int:
        """Evaluations that the attack used, the sum of attack, gradient and success check."""
        return self.attack + self.gradient + self.success_check

    @property
    def evaluated_once(self) -> bool:
        """Whether single evaluations decided, as for a deterministic victim."""
        return self.clean_evaluations == 1


def interim_queries(budget: int) -> tuple[int, ...]:
    """Return the queries, below a budget, after which the point that an attack would submit is evaluated.

    Example:
        >>> interim_queries(1000)
        (10, 30, 100, 300)
    """
    return tuple(step for power in range(1, len(str(budget))) for step in (10**power, 3 * 10**power) if step < budget)


def read_records(path: Path) -> list[Record]:
    """Read a file of records, ordered by id; a damaged line is a UserError with its number."""
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

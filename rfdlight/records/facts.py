"""Facts of a run that its records do not hold, as typed objects."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from rfdlight.records.schema import Count, Fields, PositiveCount, Size, check_part, descriptions


class Rows(Fields, frozen=True, kw_only=True):
    """Rows of the victim's forward passes, by purpose."""

    attack: Count = 0
    gradient: Count = 0
    success_check: Count = 0
    criterion: Count = 0
    padding: Count = 0

    @property
    def attacker(self) -> int:
        """Rows of the attack's own evaluations."""
        return self.attack + self.gradient + self.success_check

    @property
    def total(self) -> int:
        """All rows."""
        return self.attacker + self.criterion + self.padding

    def __add__(self, other: Rows) -> Rows:
        """Return the sums by purpose."""
        return Rows(**(Counter(msgspec.structs.asdict(self)) + Counter(msgspec.structs.asdict(other))))


ROWS = Rows.__struct_fields__
"""The purposes of rows."""


class InProgress(Fields, frozen=True, kw_only=True):
    """Images of a stopped run that are begun and not finished."""

    begun: Count = 0
    robust: Count = 0

    def __post_init__(self) -> None:
        """Check that the robust images are begun."""
        check_part("robust", self.robust, "images begun", self.begun)


class CardAccuracy(Fields, frozen=True, kw_only=True):
    """Clean accuracy on a victim's card."""

    correct: Count
    total: PositiveCount

    def __post_init__(self) -> None:
        """Check that no more answers are correct than there are."""
        check_part("correct", self.correct, "images", self.total)


class Randomness(Fields, frozen=True, kw_only=True):
    """What shows whether the victim is random.

    Attributes:
        declared: Whether a defense is declared random.
        measured: Whether answers to the first images differed.
        batch_effect: Change of an image's logits beside other images, as a share of their range.
        revealed: Id of the image whose later answer differed, or None.
    """

    declared: bool
    measured: bool
    batch_effect: float | None = None
    revealed: str | None = None


class NoBall(Fields, frozen=True, kw_only=True):
    """Outcome of the attack with eps 0: `changed` are ids of images with another clean margin than in the run."""

    images: Count
    queries: Count
    right: Count
    adversarial: Count
    changed: list[str]
    deterministic: bool = True


class NoiseComparison(Fields, frozen=True, kw_only=True):
    """Outcome of random noise: images that only the attack, and only the noise, makes adversarial."""

    images: Count
    queries: Count
    attack_only: Count
    noise_only: Count


class FirstStep(Fields, frozen=True, kw_only=True):
    """Difference in the loss between the attack's first two queries, and the noise of that difference."""

    images: Count
    signal: Size
    noise: Size


class SanityCheckResults(Fields, frozen=True, kw_only=True):
    """Outcomes of the sanity checks; `skipped` holds the reason for each check that could not be made."""

    no_ball: NoBall | None = None
    random_noise: NoiseComparison | None = None
    step: FirstStep | None = None
    skipped: dict[str, str] = {}


class RunFacts(Fields, frozen=True, kw_only=True):
    """The facts of a run that its records do not hold.

    Attributes:
        name: name of the run directory
        attack: short name of the attack
        options: attack options that are not at their defaults
        norm: linf or l2
        eps: radius of the ball, in pixel units
        budget: billed queries per image
        criterion: success criterion
        query_counting: exact or paper
        eot: evaluations averaged in each query
        targeted: whether the attack has to reach a class that is drawn per image
        precision: precision of the attack's forward passes; the success criterion uses float32
        victim: the victim in words, with its weights and clean accuracy
        data: data set, with its arguments that are not at their defaults
        num_images: images to attack
        selection: selection of the images
        classes: names of the classes, or null
        num_classes: classes of the victim
        defense: the defense in words, with its arguments and its calls per image where there are several, or none
        seed: seed of the attack and of the victim's noise
        batch_size: images per forward pass
        batch_size_used: images per forward pass at the end; smaller than batch_size where memory ran out
        totals: rows of the victim's forward passes: attack, gradient, success_check, criterion and padding
        forwarded: rows that a hook on the victim counted; null after a kill
        wall_seconds: duration of the attack, in seconds
        deterministic: whether the victim gives the same answer every time
        complete: whether every image is finished or failed
        failed: images on which the victim failed, by id, with the reason; no record
        in_progress: images that a stopped run has begun and not finished, and how many of them are robust so far
        processes: processes that shared the images
        attempts: attempts at the run: the first, and one per resume
        killed_attempts: attempts with a process that was killed; totals lack the rows for its unfinished images
        damaged_lines: damaged lines of the journal, left out
        foreign: records of images that are not images of the run
        card: correct answers and images on the victim's card, undefended, whole test set; or null
        card_data: data set of the victim's card, or null
        clean_accuracy_warning: warning about the answers to clean images before the attack, or null
        random: declared: whether a defense is declared random; measured: whether answers to the first images differed;
            batch_effect: change of an image's logits beside other images; revealed: image whose later answer differed,
            or null
        sanity_checks: outcomes of the sanity checks, see rfdlight.evaluation.sanity_checks
    """

    name: str
    attack: str
    options: str
    norm: Literal["linf", "l2"]
    eps: Annotated[float, Meta(gt=0)]
    budget: Count
    criterion: str
    query_counting: Literal["exact", "paper"]
    eot: PositiveCount
    targeted: bool
    precision: str
    victim: str
    data: str
    num_images: Count
    selection: str | None = None
    classes: list[str] | None = None
    num_classes: PositiveCount | None = None
    defense: str
    seed: int
    batch_size: Count | None = None
    batch_size_used: Count | None = None
    totals: Rows
    forwarded: Count | None = None
    wall_seconds: Size
    deterministic: bool
    complete: bool
    failed: dict[str, str] = {}
    in_progress: InProgress = InProgress()
    processes: PositiveCount = 1
    attempts: Count = 1
    killed_attempts: Count = 0
    damaged_lines: Count = 0
    foreign: Count = 0
    card: CardAccuracy | None = None
    card_data: str | None = None
    clean_accuracy_warning: str | None = None
    random: Randomness | None = None
    sanity_checks: SanityCheckResults = SanityCheckResults()

    @property
    def shrunk_to(self) -> int | None:
        """Images per forward pass at the end of a run in which memory ran out, None for another run."""
        return None if self.batch_size_used == self.batch_size else self.batch_size_used


RUN_FIELDS = descriptions(RunFacts)
"""The facts of a run and their meaning."""

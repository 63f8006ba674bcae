"""Facts of a run that its records do not hold, as typed objects."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rfdlight.records.schema import Count, Fields, PositiveCount, Size, about, descriptions


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
        if self.robust > self.begun:
            raise ValueError(f"robust: expected at most {self.begun}, the images begun, got {self.robust}")


class CardAccuracy(Fields, frozen=True, kw_only=True):
    """Clean accuracy on a victim's card."""

    correct: Count
    total: PositiveCount

    def __post_init__(self) -> None:
        """Check that no more answers are correct than there are."""
        if self.correct > self.total:
            raise ValueError(f"correct: expected at most total, {self.total}, got {self.correct}")


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
    """The facts of a run that its records do not hold; `RUN_FIELDS` holds the meaning of each field."""

    name: Annotated[str, about("name of the run directory")]
    attack: Annotated[str, about("short name of the attack")]
    options: Annotated[str, about("attack options that are not at their defaults")]
    norm: Annotated[Literal["linf", "l2"], about("linf or l2")]
    eps: Annotated[float, Meta(gt=0), about("radius of the ball, in pixel units")]
    budget: Annotated[Count, about("billed queries per image")]
    criterion: Annotated[str, about("success criterion")]
    query_counting: Annotated[Literal["exact", "paper"], about("exact or paper")]
    eot: Annotated[PositiveCount, about("evaluations averaged in each query")]
    targeted: Annotated[bool, about("whether the attack has to reach a class that is drawn per image")]
    precision: Annotated[str, about("precision of the attack's forward passes; the success criterion uses float32")]
    victim: Annotated[str, about("the victim in words, with its weights and clean accuracy")]
    data: Annotated[str, about("data set, with its arguments that are not at their defaults")]
    num_images: Annotated[Count, about("images to attack")]
    selection: Annotated[str | None, about("selection of the images")] = None
    classes: Annotated[list[str] | None, about("names of the classes, or null")] = None
    num_classes: Annotated[PositiveCount | None, about("classes of the victim")] = None
    defense: Annotated[
        str, about("the defense in words, with its arguments and its calls per image where there are several, or none")
    ]
    seed: Annotated[int, about("seed of the attack and of the victim's noise")]
    batch_size: Annotated[Count | None, about("images per forward pass")] = None
    batch_size_used: Annotated[
        Count | None, about("images per forward pass at the end; smaller than batch_size where memory ran out")
    ] = None
    totals: Annotated[
        Rows, about("rows of the victim's forward passes: attack, gradient, success_check, criterion and padding")
    ]
    forwarded: Annotated[Count | None, about("rows that a hook on the victim counted; null after a kill")] = None
    wall_seconds: Annotated[Size, about("duration of the attack, in seconds")]
    deterministic: Annotated[bool, about("whether the victim gives the same answer every time")]
    complete: Annotated[bool, about("whether every image is finished or failed")]
    failed: Annotated[
        dict[str, str], about("images on which the victim failed, by id, with the reason; no record")
    ] = {}
    in_progress: Annotated[
        InProgress,
        about("images that a stopped run has begun and not finished, and how many of them are robust so far"),
    ] = InProgress()
    processes: Annotated[PositiveCount, about("processes that shared the images")] = 1
    attempts: Annotated[Count, about("attempts at the run: the first, and one per resume")] = 1
    killed_attempts: Annotated[
        Count, about("attempts with a process that was killed; totals lack the rows for its unfinished images")
    ] = 0
    damaged_lines: Annotated[Count, about("damaged lines of the journal, left out")] = 0
    foreign: Annotated[Count, about("records of images that are not images of the run")] = 0
    card: Annotated[
        CardAccuracy | None,
        about("correct answers and images on the victim's card, undefended, whole test set; or null"),
    ] = None
    card_data: Annotated[str | None, about("data set of the victim's card, or null")] = None
    clean_accuracy_warning: Annotated[
        str | None, about("warning about the answers to clean images before the attack, or null")
    ] = None
    random: Annotated[
        Randomness | None,
        about(
            "declared: whether a defense is declared random; measured: whether answers to the first images differed; "
            "batch_effect: change of an image's logits beside other images; revealed: image whose later answer "
            "differed, or null"
        ),
    ] = None
    sanity_checks: Annotated[
        SanityCheckResults, about("outcomes of the sanity checks, see rfdlight.evaluation.sanity_checks")
    ] = SanityCheckResults()

    @property
    def shrunk_to(self) -> int | None:
        """Images per forward pass at the end of a run in which memory ran out, None for another run."""
        return None if self.batch_size_used == self.batch_size else self.batch_size_used

    def as_dict(self) -> dict[str, Any]:
        """Return the facts by name."""
        return msgspec.structs.asdict(self)


RUN_FIELDS = descriptions(RunFacts)
"""The facts of a run and their meaning."""

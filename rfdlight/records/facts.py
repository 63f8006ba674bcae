"""Facts of a run that its records do not hold, as typed objects."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import asdict

from rfdlight.records.schema import Count, Fields, PositiveCount, Size, check_part


class Rows(Fields, frozen=True, kw_only=True):
    """Rows of the victim's forward passes, by purpose: all that it answered since each attempt loaded it.

    Not seen are the rows of a forward pass in which the victim itself raises, and of a sweep's look at its cells before
    their runs. Of a process that was killed in its attack those of finished images alone are seen, of one that was
    killed in the sanity checks all but theirs.
    """

    attack: Count = 0
    gradient: Count = 0
    success_check: Count = 0
    criterion: Count = 0
    checks: Count = 0  # of the victim before the attacks, and the sanity checks after them
    padding: Count = 0

    @property
    def attacker(self) -> int:
        """Rows of the attack's own evaluations."""
        return self.attack + self.gradient + self.success_check

    @property
    def total(self) -> int:
        """All rows."""
        return self.attacker + self.criterion + self.checks + self.padding

    def __add__(self, other: Rows) -> Rows:
        return Rows(**(Counter(asdict(self)) + Counter(asdict(other))))


ROWS = Rows.__struct_fields__
"""The purposes of rows."""


class InProgress(Fields, frozen=True, kw_only=True):
    """Images of a stopped run that are begun and not finished, and how many of them are robust so far."""

    begun: Count = 0
    robust: Count = 0

    def __post_init__(self) -> None:
        check_part("robust", self.robust, "images begun", self.begun)


class CardAccuracy(Fields, frozen=True, kw_only=True):
    """Clean accuracy on a victim's card."""

    correct: Count
    total: PositiveCount

    def __post_init__(self) -> None:
        check_part("correct", self.correct, "images", self.total)


class Randomness(Fields, frozen=True, kw_only=True):
    """Evidence that the victim is random."""

    declared: bool  # by a defense
    measured: bool  # answers to the first images differed
    batch_effect: float | None = None  # change of an image's logits beside other images, as a share of their range
    revealed: str | None = None  # id of the image whose later answer differed


class NoBall(Fields, frozen=True, kw_only=True):
    """Outcome of the attack with eps 0."""

    images: Count
    queries: Count
    right: Count
    adversarial: Count
    changed: list[str]  # ids of images with another clean margin than in the run
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
    """The facts of a run that its records do not hold; docs/reference/records.md explains the fields."""

    name: str
    attack: str
    options: str  # options of the attack that are not at their defaults
    surrogate: str | None = None  # the network whose gradients the attack uses, with its weights
    norm: Literal["linf", "l2"]
    eps: Annotated[float, Meta(gt=0)]  # in pixel units
    budget: Count  # billed queries per image
    criterion: str
    query_counting: Literal["exact", "paper"]
    eot: PositiveCount  # evaluations averaged in each query
    targeted: bool
    precision: str  # of the attack's forward passes
    compiled: bool = False  # the victim's float32 forward passes
    victim: str
    data: str
    num_images: Count
    selection: str | None = None
    classes: list[str] | None = None
    num_classes: PositiveCount | None = None
    defense: str
    policy: Literal["flag", "refuse", "ban"] | None = None  # what follows a detection by a query policy
    seed: int
    channels_last: bool | None = None  # memory format of the victim
    batch_size: Count | None = None
    batch_size_used: Count | None = None  # at the end; smaller where memory ran out
    totals: Rows
    forwarded: Count | None = None  # rows that hooks on the victim counted; None after a kill
    wall_seconds: Size
    deterministic: bool
    complete: bool  # every image is finished or failed
    failed: dict[str, str] = {}  # reasons by image id
    in_progress: InProgress = InProgress()
    processes: PositiveCount = 1
    attempts: Count = 1
    killed_attempts: Count = 0  # totals lack rows of theirs
    damaged_lines: Count = 0  # of the journals
    foreign: Count = 0  # records of images that are not images of the run
    card: CardAccuracy | None = None
    card_data: str | None = None
    clean_accuracy_warning: str | None = None
    random: Randomness | None = None
    sanity_checks: SanityCheckResults = SanityCheckResults()

    @property
    def shrunk_to(self) -> int | None:
        """Images per forward pass at the end of a run in which memory ran out, None for another run."""
        return None if self.batch_size_used == self.batch_size else self.batch_size_used

"""Standard evaluations: their folders, and the records of their stages, combined image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from rfdlight._io import read_bytes, read_text
from rfdlight.core.balls import Norm
from rfdlight.errors import UserError, expect, shown
from rfdlight.records.diagnostic import Diagnostic
from rfdlight.records.facts import ROWS, InProgress, Rows
from rfdlight.records.records import CleanVerdict, InterimEvaluation, Record, Verdict
from rfdlight.records.run_directory import refuse_links
from rfdlight.records.runs import Run, load_run
from rfdlight.records.schema import Count, Fields, PositiveCount, decode
from rfdlight.records.summary import CurvePoint, Estimate, Summary, budgets, outcomes, robust_at, success_query_of

FILE = "standard.json"
"""In the folder of a standard evaluation: its settings, and once all stages are done its numbers."""

RANDOM = "random"
"""Folder of the stages that are run anew, when the victim turns out to be random after the first stage."""

Access = Literal["score", "decision", "both"]

VERSION = "standard-1"
"""The version of the standard evaluation."""

_SCORE = ("bernoulli", "bernoulli_multiscale", "square", "signhunt")
STAGES: dict[Norm, dict[Access, tuple[str, ...]]] = {
    "linf": {
        "score": (*_SCORE, "parsimonious"),
        "decision": ("bernoulli_decision", "rays"),
        "both": (*_SCORE, "parsimonious", "rays"),
    },
    "l2": {
        "score": _SCORE,
        "decision": ("bernoulli_decision", "hsja"),
        "both": (*_SCORE, "hsja"),
    },
}
"""The attacks of `VERSION`, each with its default options, by norm and access; a change is a new version."""

_STAGE = {
    "options": "defaults",
    "criterion": "sequential",
    "query_counting": "exact",
    "eot": 1,
    "targeted": False,
    "precision": "float32",
}
"""Facts of every stage, which no option of a standard evaluation changes."""

_OF_FIRST = ("clean accuracy", "randomness")
"""Consistency checks whose warnings say something about the first stage alone."""

_GRAVEST: tuple[Literal["adversarial", "undecided", "robust"], ...] = ("adversarial", "undecided", "robust")

AnyRun = TypeVar("AnyRun", bound=Run)
Point = TypeVar("Point")


class Settings(Fields, frozen=True, kw_only=True):
    """Settings of a standard evaluation."""

    version: str
    norm: Norm
    eps: float  # in pixel units
    budget: Count  # queries per image and stage
    access: Access
    stages: Annotated[list[str], Meta(min_length=1)]  # the planned attacks, in order
    level: float  # of the verdict "adversarial" in each stage
    seed: int  # of the first stage
    victim: str
    defense: str
    data: str
    num_images: Count


class StandardImage(Fields, frozen=True, kw_only=True):
    """The result of all stages on one image."""

    id: str
    clean_verdict: CleanVerdict  # of the first stage
    clean_margin: float
    verdict: Verdict
    stage: PositiveCount | None  # that found the image adversarial, from 1
    queries: Count  # billed over all stages
    success_query: Count | None  # queries over all stages at the success; None if no stage found it adversarial
    undecided_query: Count | None  # queries over all stages at the first undecided final point
    undecided_margin: float | None  # mean over all evaluations of the undecided final points

    @property
    def clean_correct(self) -> bool:
        """Whether the clean image counts as right in the headline, by the rule of `Record.clean_correct`."""
        return self.clean_verdict == "right" or (
            self.clean_verdict == "undecided" and (self.clean_margin >= 0 or self.verdict == "robust")
        )

    def is_robust_at(self, queries: int) -> bool:
        """Return whether the image is right and not adversarial after so many queries over all stages."""
        end = self.success_query
        if self.verdict == "undecided" and (self.undecided_margin or 0) < 0:
            end = self.undecided_query
        return self.clean_correct and (end is None or end > queries)


class StageSummary(Fields, frozen=True, kw_only=True):
    """What one stage did."""

    attack: str
    seed: int
    images: Count  # attacked, or found misclassified
    adversarial: Count  # by a decided verdict
    share: Estimate  # of all images
    queries: Count
    rows: Rows
    seconds: float


class StandardSummary(Fields, frozen=True, kw_only=True):
    """Every number of a standard evaluation; docs/explanation/standard-evaluation.md explains the fields."""

    counts: dict[str, int]
    clean: Estimate
    robust: Estimate
    robust_lower: Estimate  # undecided images as adversarial
    robust_upper: Estimate  # undecided images as robust
    stage_share: Count  # budget of one stage, split equally over the planned stages and rounded down
    split_budget: Estimate  # robust accuracy with `stage_share` queries of each stage; usually an upper bound
    split_budget_lower: Estimate  # undecided images as adversarial
    split_budget_upper: Estimate  # undecided images as robust
    curve: list[CurvePoint]  # over the queries of all stages
    stages: list[StageSummary]
    ledger: dict[str, Any]  # over all stages; rows also of void ones
    killed_attempts: Count  # whose rows are not all in the ledger
    wall_seconds: float


def to_attack(records: Sequence[Record]) -> list[str]:
    """Return the ids of the images that the next stage attacks: those that are robust or undecided."""
    return [record.id for record in records if record.verdict in ("robust", "undecided")]


def combine(stages: Sequence[Mapping[str, Record]]) -> list[StandardImage]:
    """Combine the records of all stages, each by image id; an image that a stage attacked and lost has none."""
    found = []
    for name in stages[0]:
        records = [stage[name] for stage in stages if name in stage]
        lost = records[-1].verdict in ("robust", "undecided") and len(records) < len(stages)
        if not lost:
            found.append(_combined(records))
    return found


def _combined(records: Sequence[Record]) -> StandardImage:
    """Combine the records of one image, in order of the stages."""
    clean = records[0]
    before, stage, success, first_undecided = 0, None, None, None
    for number, record in enumerate(records, 1):
        end = before + outcomes(record)[-1].queries
        if record.verdict == "adversarial":
            stage, success = number, before + (success_query_of(record) or end - before)
        if record.verdict == "undecided" and first_undecided is None:
            first_undecided = end
        before += record.billed
    undecided = [record for record in records if record.verdict == "undecided"]
    verdict: Verdict = "undecided" if undecided else "robust"
    if stage is not None:
        verdict = "adversarial"
    elif clean.verdict == "misclassified":
        verdict = "misclassified"
    return StandardImage(
        id=clean.id,
        clean_verdict=clean.clean_verdict,
        clean_margin=clean.clean_margin,
        verdict=verdict,
        stage=stage,
        queries=before,
        success_query=success,
        undecided_query=first_undecided,
        undecided_margin=_mean([(each.final_margin, each.final_evaluations) for each in undecided]),
    )


def combined_record(records: Sequence[Record]) -> Record:
    """Return one record for an image, from its records in order of the stages.

    It has the final evaluation of the deciding stage and the clean evaluations of the first. Its interim evaluations
    combine, after each number of queries of a stage, the last evaluations of all stages.
    """
    image = _combined(records)
    final = records[_deciding(records, image.verdict)]
    first = asdict(records[0])
    clean = {name: value for name, value in first.items() if name.startswith("clean_")}
    margin = {"final_margin": image.undecided_margin} if image.verdict == "undecided" else {}
    return msgspec.structs.replace(
        final,
        **clean,
        **margin,
        first_9_vote_success=None,
        interim=_interim(records, _end(final)),
    )


def _deciding(records: Sequence[Record], verdict: Verdict) -> int:
    """Return the position of the record of the deciding stage, from the records of an image and their verdict."""
    if verdict in ("adversarial", "misclassified"):
        return len(records) - 1
    # The latest, before which every interim evaluation counts.
    alike = [position for position, record in enumerate(records) if record.verdict == verdict]
    return max(reversed(alike), key=lambda position: _end(records[position]))


def _end(record: Record) -> int:
    """Return the queries from which on the final evaluation of a record counts."""
    return outcomes(record)[-1].queries


def _interim(records: Sequence[Record], end: int) -> tuple[InterimEvaluation, ...]:
    """Combine the evaluations of all stages, interim and final ones, before a number of queries."""
    if not any(record.interim or record.verdict == "undecided" for record in records):
        return ()
    by_stage = [
        [each for each in record.interim if each.queries < _end(record)]
        + [
            InterimEvaluation(
                queries=max(1, _end(record)),
                evaluations=record.final_evaluations,
                margin=record.final_margin,
                verdict=record.verdict,
            )
        ]
        for record in records
        if record.verdict != "misclassified"
    ]
    found = []
    for queries in sorted({each.queries for evaluated in by_stage for each in evaluated if each.queries < end}):
        last = [
            max(before, key=lambda each: each.queries)
            for evaluated in by_stage
            if (before := [each for each in evaluated if each.queries <= queries])
        ]
        verdict = next(verdict for verdict in _GRAVEST if any(each.verdict == verdict for each in last))
        alike = [each for each in last if each.verdict == verdict]
        found.append(
            InterimEvaluation(
                queries=queries,
                evaluations=sum(each.evaluations for each in alike),
                margin=_mean([(each.margin, each.evaluations) for each in alike]) or 0.0,
                verdict=verdict,
            )
        )
    return tuple(found)


def _mean(margins: Sequence[tuple[float, int]]) -> float | None:
    """Return the mean over all evaluations of mean margins, each with its number of evaluations, None of none."""
    evaluations = sum(count for _, count in margins)
    return sum(margin * count for margin, count in margins) / evaluations if evaluations else None


def summarize_standard(
    images: Sequence[StandardImage],
    records: Sequence[Record],
    stages: Sequence[Run],
    budget: int,
    planned: int,
    void: Sequence[Run] = (),
) -> StandardSummary:
    """Compute every number of a standard evaluation with a number of planned stages; `records` are the combined ones.

    The curve alone is over the queries of all stages, and computed from `images`.
    """
    total = len(images)
    stage_share = budget // planned
    adversarial = [sum(image.stage == number for image in images) for number in range(1, len(stages) + 1)]
    rows = _totals((*void, *stages))
    verdicts = [image.verdict for image in images]
    return StandardSummary(
        counts={
            "images": total,
            "failed": len({name for run in stages for name in run.facts.failed}),
            **{verdict: verdicts.count(verdict) for verdict in ("misclassified", "adversarial", "undecided", "robust")},
        },
        clean=Estimate.of(sum(record.clean_correct for record in records), total),
        robust=robust_at(records, budget),
        robust_lower=robust_at(records, budget, "adversarial"),
        robust_upper=robust_at(records, budget, "robust"),
        stage_share=stage_share,
        split_budget=robust_at(records, stage_share),
        split_budget_lower=robust_at(records, stage_share, "adversarial"),
        split_budget_upper=robust_at(records, stage_share, "robust"),
        curve=[
            CurvePoint.of(sum(image.is_robust_at(queries) for image in images), total, queries=queries)
            for queries in sorted({budget, *budgets(budget * planned)})
        ],
        stages=[
            StageSummary(
                attack=run.facts.attack,
                seed=run.facts.seed,
                images=len(run.records),
                adversarial=count,
                share=Estimate.of(count, total),
                queries=_billed([run]),
                rows=run.facts.totals,
                seconds=run.facts.wall_seconds,
            )
            for run, count in zip(stages, adversarial, strict=True)
        ],
        ledger={"queries": _billed(stages), **_rows(rows)},
        killed_attempts=sum(run.facts.killed_attempts for run in (*void, *stages)),
        wall_seconds=sum(run.facts.wall_seconds for run in (*void, *stages)),
    )


def _billed(runs: Sequence[Run]) -> int:
    return sum(record.billed for run in runs for record in run.records)


def _totals(runs: Sequence[Run]) -> Rows:
    return sum((run.facts.totals for run in runs), Rows())


def _rows(rows: Rows) -> dict[str, int]:
    return {**{kind: getattr(rows, kind) for kind in ROWS}, "rows": rows.total}


@dataclass(frozen=True)
class Standard:
    """A finished standard evaluation: its settings and the runs of its stages.

    `void` holds earlier runs of stages, of a victim that turned out to be random later.
    """

    settings: Settings
    stages: tuple[Run, ...]
    void: tuple[Run, ...] = ()
    folder: Path | None = None
    order: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def load(cls, folder: str | Path, load: Callable[[Path], Run] = load_run) -> Self:
        """Read the folder of a finished standard evaluation; `load` reads the run directory of a stage."""
        folder = Path(folder)
        settings = settings_in(folder)
        refuse_links(folder)
        again = (folder / RANDOM).is_dir()
        stages = loaded_stages(folder / RANDOM if again else folder, settings, load)
        if not are_finished(stages, settings):
            raise UserError(f"{folder}: expected a finished standard evaluation, got one with images left; resume it")
        return cls(settings, tuple(stages), tuple(loaded_stages(folder, settings, load) if again else ()), folder)

    @cached_property
    def images(self) -> tuple[StandardImage, ...]:
        """The result on each image, in the order of the given data."""
        found = {image.id: image for image in combine([stage.by_id for stage in self.stages])}
        return tuple(found[name] for name in self.order or found if name in found)

    @cached_property
    def records(self) -> dict[str, Record]:
        """The combined record of each image, by its id, in the order of `images`."""
        by_stage = [stage.by_id for stage in self.stages]
        return {
            image.id: combined_record([records[image.id] for records in by_stage if image.id in records])
            for image in self.images
        }

    @cached_property
    def deciding(self) -> dict[str, int]:
        """The position in `stages` of the deciding stage of each image, by its id, in the order of `images`.

        Its final point stands for the image. It is the stage that found the image adversarial; or else the last one
        that left it undecided; or else the last one. Where these end after different queries, the latest end decides.
        """
        by_stage = [stage.by_id for stage in self.stages]
        return {
            image.id: _deciding([records[image.id] for records in by_stage if image.id in records], image.verdict)
            for image in self.images
        }

    def decided(self, kept: Sequence[Mapping[str, Point]]) -> dict[str, Point]:
        """Return the final point that the deciding stage of each image kept, by image id, from those of each stage."""
        return {name: kept[number][name] for name, number in self.deciding.items() if name in kept[number]}

    @cached_property
    def summary(self) -> StandardSummary:
        """Every number, computed from the records of the stages."""
        settings = self.settings
        records = [self.records[image.id] for image in self.images]
        return summarize_standard(self.images, records, self.stages, settings.budget, len(settings.stages), self.void)

    def check_version(self) -> None:
        """Raise a UserError unless the version is `VERSION`, with all of its stages in their order."""
        found, stages = self.settings, list(STAGES[self.settings.norm][self.settings.access])
        known = found.version == VERSION and found.stages == stages
        got = f"{found.version} with {', '.join(found.stages)}"
        expect(known, str(self.folder), f"{VERSION} with {', '.join(stages)}", got)

    @property
    def clean_accuracy(self) -> Estimate:
        """Accuracy of the mean logits on the clean images."""
        return self.summary.clean

    @property
    def robust_accuracy(self) -> Estimate:
        """Share of images on which every stage fails, undecided ones by the sign of their mean margin."""
        return self.summary.robust

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids in the order of `images` and `adversarial`."""
        return tuple(image.id for image in self.images)

    @property
    def rows(self) -> Rows:
        """Rows of the victim's forward passes over all stages, by purpose."""
        return _totals((*self.void, *self.stages))

    def __iter__(self) -> Iterator[Estimate]:
        return iter((self.clean_accuracy, self.robust_accuracy))

    @cached_property
    def combined(self) -> CombinedRun:
        """The evaluation as one run, for reports and comparisons, with the combined record of each image.

        Its robust accuracy after q queries is at most that of stages with q queries each.
        """
        return CombinedRun.of_standard(self)


@dataclass(frozen=True)
class CombinedRun(Run):
    """A standard evaluation as one run; numbers that stages cannot share are unknown."""

    stages: tuple[Run, ...] = field(default=(), repr=False)
    queries_of_all: int = 0

    @classmethod
    def of_standard(cls, standard: Standard) -> Self:
        """Combine the stages of a standard evaluation."""
        settings, stages = standard.settings, standard.stages
        every, first = [run.facts for run in (*standard.void, *stages)], stages[0].facts
        seen = [facts.forwarded for facts in every]
        facts = msgspec.structs.replace(
            first,
            name=standard.folder.name if standard.folder else settings.version,
            attack=settings.version,
            options="defaults" if settings.access == "both" else f"access={settings.access}",
            budget=settings.budget,
            num_images=settings.num_images,
            totals=standard.rows,
            forwarded=None if None in seen else sum(count or 0 for count in seen),
            wall_seconds=standard.summary.wall_seconds,
            deterministic=stages[-1].facts.deterministic,
            complete=all(run.facts.complete for run in stages),
            failed={name: reason for run in stages for name, reason in run.facts.failed.items()},
            in_progress=InProgress(),
            attempts=max(facts.attempts for facts in every),
            killed_attempts=standard.summary.killed_attempts,
        )
        run = cls.of(standard.records.values(), facts, standard.folder)
        return replace(run, stages=stages, queries_of_all=standard.summary.ledger["queries"])

    @cached_property
    def summary(self) -> Summary:
        """The accuracies and the query ledger; what depends on the final point of a single attack is unknown."""
        found, unknown = super().summary, Estimate.of(0, 0)
        votes = msgspec.structs.replace(found.majority_vote, robust=unknown, robust_lower=unknown, robust_upper=unknown)
        return msgspec.structs.replace(
            found,
            single_query=msgspec.structs.replace(found.single_query, robust=None),
            majority_vote=votes,
            declared=unknown,
            first_9_vote_success=None,
            ledger={**found.ledger, "billed": self.queries_of_all},
        )

    @cached_property
    def diagnostics(self) -> list[Diagnostic]:
        """The outcomes of the consistency checks of every stage.

        Later stages attack a selection of the images, whose clean accuracy is not the victim's, and measure no
        randomness where the first stage did.
        """
        return [
            Diagnostic(f"{run.facts.attack}: {found.check}", found.state, found.found)
            for number, run in enumerate(self.stages)
            for found in run.diagnostics
            if number == 0 or found.state == "fail" or (found.state != "skip" and found.check not in _OF_FIRST)
        ]

    @property
    def config(self) -> str:
        """The text of `FILE`, empty for an evaluation in memory."""
        return "" if self.folder is None else read_text(self.folder / FILE, errors="replace")


class Begun(msgspec.Struct, frozen=True):
    """The part of `FILE` that is read: the numbers are computed again."""

    settings: Settings


def settings_in(folder: Path) -> Settings:
    """Read the settings of the standard evaluation in a folder."""
    path = folder / FILE
    try:
        found = decode(read_bytes(path), Begun).settings
    except FileNotFoundError:
        raise UserError(f"expected the folder of a standard evaluation, got {folder}, which lacks {FILE}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    # Texts of a stranger's file may hold control characters.
    texts = {name: shown(text) for name, text in asdict(found).items() if isinstance(text, str)}
    return msgspec.structs.replace(found, **texts, stages=list(map(shown, found.stages)))


def stage_seed(seed: int, number: int) -> int:
    """Return the seed of a stage, counted from 1, in an evaluation with a seed."""
    return seed + 1000 * (number - 1)


def stage_folder(folder: Path, number: int, attack: str) -> Path:
    """Return the run directory of a stage, counted from 1."""
    return folder / f"{number}-{attack}"


def are_finished(stages: Sequence[Run], settings: Settings) -> bool:
    """Return whether stages that were run in turn are all, or have left no image to attack."""
    left = len(to_attack(stages[-1].records)) if stages else settings.num_images
    return all(run.facts.complete for run in stages) and (not left or len(stages) == len(settings.stages))


def loaded_stages(folder: Path, settings: Settings, load: Callable[[Path], AnyRun]) -> list[AnyRun]:
    """Read the stages that are done below a folder, in order."""
    stages: list[AnyRun] = []
    for number, attack in enumerate(settings.stages, 1):
        place = stage_folder(folder, number, attack)
        if not (place / "summary.json").is_file():
            break
        run = load(place)
        shared = {name: getattr(settings, name) for name in ("norm", "eps", "budget", "victim", "defense", "data")}
        expected = shared | _STAGE | {"attack": attack, "seed": stage_seed(settings.seed, number)}
        different = [name for name, value in expected.items() if getattr(run.facts, name) != value]
        if stages and run.facts.complete:
            left, done = {*to_attack(stages[-1].records)}, {*run.by_id}
            if not done <= left <= done | run.facts.failed.keys():
                different.append("selection of images")
        if different:
            raise UserError(
                f"{place}: expected a stage of {settings.version} in {folder}, got one of other {different[0]}"
            )
        stages.append(run)
    return stages

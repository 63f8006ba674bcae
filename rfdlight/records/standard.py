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
from rfdlight.core.norms import Norm
from rfdlight.errors import UserError, shown
from rfdlight.records.diagnostic import Diagnostic
from rfdlight.records.facts import ROWS, InProgress, Rows
from rfdlight.records.records import CleanVerdict, Record, Verdict
from rfdlight.records.run_directory import refuse_links
from rfdlight.records.runs import Run, load_run
from rfdlight.records.schema import Count, Fields, PositiveCount, decode
from rfdlight.records.summary import CurvePoint, Estimate, Summary, Undecided, budgets, outcomes, success_query_of

FILE = "standard.json"
"""In the folder of a standard evaluation: its settings, and once all stages are done its numbers."""

RANDOM = "random"
"""Folder of the stages that are run anew, when the victim turns out to be random after the first stage."""

Access = Literal["score", "decision", "both"]

_OF_FIRST = ("clean accuracy", "randomness")
"""Consistency checks whose warnings say something about the first stage alone."""

AnyRun = TypeVar("AnyRun", bound=Run)


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
    success_query_in_stage: Count | None  # queries of that stage alone at the success
    undecided_query: Count | None  # queries over all stages at the first undecided final point
    undecided_query_in_stage: Count | None  # fewest queries of a stage alone at its undecided final point
    undecided_margin: float | None  # mean over all evaluations of the undecided final points

    @property
    def clean_correct(self) -> bool:
        """Whether the clean image counts as right in the headline, by the rule of `Record.clean_correct`."""
        return self.clean_verdict == "right" or (
            self.clean_verdict == "undecided" and (self.clean_margin >= 0 or self.verdict == "robust")
        )

    def is_robust_at(self, queries: int | None, undecided: Undecided = "sign") -> bool:
        """Return whether the image is right and not adversarial after so many queries over all stages, None for all."""
        end = self._end(undecided)
        return self._is_right(undecided) and (end is None or (queries is not None and end > queries))

    def is_robust_with(self, queries: int, undecided: Undecided = "sign") -> bool:
        """Return whether the image is right, and no stage found it adversarial within so many queries of its own."""
        ends = [self.success_query_in_stage]
        if self._is_adversarial_by(undecided):
            ends.append(self.undecided_query_in_stage)
        return self._is_right(undecided) and all(end is None or end > queries for end in ends)

    def _is_right(self, undecided: Undecided) -> bool:
        if undecided != "sign" and self.clean_verdict == "undecided":
            return undecided == "robust"
        return self.clean_correct

    def _is_adversarial_by(self, undecided: Undecided) -> bool:
        """Return whether undecided final points count as adversarial."""
        return undecided == "adversarial" or (undecided == "sign" and (self.undecided_margin or 0) < 0)

    def _end(self, undecided: Undecided) -> int | None:
        """Return the queries over all stages at which the image became adversarial, None if it is not."""
        if self.verdict != "undecided":
            return self.success_query
        return self.undecided_query if self._is_adversarial_by(undecided) else None


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
    """Every number of a standard evaluation; docs/standard-evaluation.md explains the fields."""

    counts: dict[str, int]
    clean: Estimate
    robust: Estimate
    robust_lower: Estimate  # undecided images as adversarial
    robust_upper: Estimate  # undecided images as robust
    stage_share: Count  # budget of one stage, split equally over the planned stages and rounded down
    split_budget: Estimate  # robust accuracy with `stage_share` queries of each stage; an upper bound
    split_budget_lower: Estimate  # undecided images as adversarial
    split_budget_upper: Estimate  # undecided images as robust
    curve: list[CurvePoint]  # over the queries of all stages
    stages: list[StageSummary]
    ledger: dict[str, Any]  # over all stages, also void ones
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
    before, stage, success, success_in_stage, first_undecided = 0, None, None, None, None
    undecided_in_stage: list[int] = []
    undecided = [record for record in records if record.verdict == "undecided"]
    for number, record in enumerate(records, 1):
        end = outcomes(record)[-1].queries
        if record.verdict == "adversarial":
            here = success_query_of(record) or end
            stage, success, success_in_stage = number, before + here, here
        if record.verdict == "undecided":
            first_undecided = before + end if first_undecided is None else first_undecided
            undecided_in_stage.append(end)
        before += record.billed
    evaluations = sum(record.final_evaluations for record in undecided)
    margin = sum(record.final_margin * record.final_evaluations for record in undecided)
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
        success_query_in_stage=success_in_stage,
        undecided_query=first_undecided,
        undecided_query_in_stage=min(undecided_in_stage, default=None),
        undecided_margin=margin / evaluations if evaluations else None,
    )


def summarize_standard(
    images: Sequence[StandardImage], stages: Sequence[Run], budget: int, planned: int, void: Sequence[Run] = ()
) -> StandardSummary:
    """Compute every number of a standard evaluation with a number of planned stages."""
    total = len(images)

    def share(holds: Callable[[StandardImage], bool]) -> Estimate:
        return Estimate.of(sum(map(holds, images)), total)

    def robust(queries: int | None, undecided: Undecided = "sign") -> Estimate:
        return share(lambda image: image.is_robust_at(queries, undecided))

    def with_share(undecided: Undecided) -> Estimate:
        return share(lambda image: image.is_robust_with(stage_share, undecided))

    stage_share = budget // planned
    adversarial = [sum(image.stage == number for image in images) for number in range(1, len(stages) + 1)]
    rows = sum((run.facts.totals for run in (*void, *stages)), Rows())
    verdicts = [image.verdict for image in images]
    return StandardSummary(
        counts={
            "images": total,
            "failed": len({name for run in stages for name in run.facts.failed}),
            **{verdict: verdicts.count(verdict) for verdict in ("misclassified", "adversarial", "undecided", "robust")},
        },
        clean=share(lambda image: image.clean_correct),
        robust=robust(None),
        robust_lower=robust(None, "adversarial"),
        robust_upper=robust(None, "robust"),
        stage_share=stage_share,
        split_budget=with_share("sign"),
        split_budget_lower=with_share("adversarial"),
        split_budget_upper=with_share("robust"),
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
                queries=sum(record.billed for record in run.records),
                rows=run.facts.totals,
                seconds=run.facts.wall_seconds,
            )
            for run, count in zip(stages, adversarial, strict=True)
        ],
        ledger={"queries": sum(image.queries for image in images), **_rows(rows)},
        killed_attempts=sum(run.facts.killed_attempts for run in (*void, *stages)),
        wall_seconds=sum(run.facts.wall_seconds for run in (*void, *stages)),
    )


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
        settings = begun_in(folder).settings
        refuse_links(folder)
        again = (folder / RANDOM).is_dir()
        stages = loaded_stages(folder / RANDOM if again else folder, settings, load)
        left = len(to_attack(stages[-1].records)) if stages else settings.num_images
        if not all(run.facts.complete for run in stages) or (left and len(stages) < len(settings.stages)):
            raise UserError(f"{folder}: expected a finished standard evaluation, got one with images left; resume it")
        return cls(settings, tuple(stages), tuple(loaded_stages(folder, settings, load) if again else ()), folder)

    @cached_property
    def images(self) -> tuple[StandardImage, ...]:
        """The result on each image, in the order of the given data."""
        found = {image.id: image for image in combine([stage.by_id for stage in self.stages])}
        return tuple(found[name] for name in self.order or found if name in found)

    @cached_property
    def summary(self) -> StandardSummary:
        """Every number, computed from the records of the stages."""
        settings = self.settings
        return summarize_standard(self.images, self.stages, settings.budget, len(settings.stages), self.void)

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
        return sum((run.facts.totals for run in (*self.void, *self.stages)), Rows())

    def __iter__(self) -> Iterator[Estimate]:
        return iter((self.clean_accuracy, self.robust_accuracy))

    @cached_property
    def combined(self) -> CombinedRun:
        """The evaluation as one run, for reports and comparisons: each image has the record that decides it.

        Its queries are those of the deciding stage alone, so its robust accuracy after q queries is that of stages
        with q queries each.
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
        names = {image.id for image in standard.images}
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
        records = (_deciding([stage.by_id[name] for stage in stages if name in stage.by_id]) for name in names)
        run = cls.of(records, facts, standard.folder)
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


class _Finished(msgspec.Struct, frozen=True):
    summary: dict[str, Any] | None = None


def is_finished(folder: Path) -> bool:
    """Return whether a standard evaluation has its numbers; True of a damaged file, which its reading reports."""
    try:
        return decode(read_bytes(folder / FILE), _Finished).summary is not None
    except (OSError, ValueError):
        return True


def begun_in(folder: Path) -> Begun:
    """Read the settings of the standard evaluation in a folder."""
    path = folder / FILE
    try:
        found = decode(read_bytes(path), Begun)
    except FileNotFoundError:
        raise UserError(f"expected the folder of a standard evaluation, got {folder}, which lacks {FILE}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    # Texts of a stranger's file may hold control characters.
    texts = {name: shown(text) for name, text in asdict(found.settings).items() if isinstance(text, str)}
    return Begun(msgspec.structs.replace(found.settings, **texts, stages=list(map(shown, found.settings.stages))))


def stage_folder(folder: Path, number: int, attack: str) -> Path:
    """Return the run directory of a stage, counted from 1."""
    return folder / f"{number}-{attack}"


def loaded_stages(folder: Path, settings: Settings, load: Callable[[Path], AnyRun]) -> list[AnyRun]:
    """Read the stages that are done below a folder, in order."""
    stages: list[AnyRun] = []
    for number, attack in enumerate(settings.stages, 1):
        place = stage_folder(folder, number, attack)
        if not (place / "summary.json").is_file():
            break
        run = load(place)
        shared = {name: getattr(settings, name) for name in ("norm", "eps", "budget", "victim", "defense")}
        found = {name: getattr(run.facts, name) for name in shared} | {"attack": run.facts.attack}
        different = [name for name, value in (shared | {"attack": attack}).items() if found[name] != value]
        if different:
            raise UserError(f"{place}: expected a stage of {settings.version} in {folder}, got another {different[0]}")
        stages.append(run)
    return stages


def _deciding(records: Sequence[Record]) -> Record:
    """Return one record for an image: of the stage that decides it, with the clean evaluations of the first stage."""
    image = _combined(records)
    if image.verdict == "undecided":
        undecided = [record for record in records if record.verdict == "undecided"]
        final = min(undecided, key=lambda record: success_query_of(record, "adversarial") or 0)
        final = msgspec.structs.replace(final, final_margin=image.undecided_margin)
    else:
        final = records[-1]
    first = asdict(records[0])
    clean = {name: value for name, value in first.items() if name.startswith("clean_")}
    return msgspec.structs.replace(final, **clean, first_9_vote_success=None)

"""Numbers of a standard evaluation: the records of its stages, combined image by image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rfdlight.core.norms import Norm
from rfdlight.records.facts import ROWS, Rows
from rfdlight.records.records import CleanVerdict, Record, Verdict
from rfdlight.records.runs import Run
from rfdlight.records.schema import Count, Fields, PositiveCount
from rfdlight.records.summary import CurvePoint, Estimate, Undecided, budgets, success_query_of

Access = Literal["score", "decision", "both"]


class Settings(Fields, frozen=True, kw_only=True):
    """Settings of a standard evaluation."""

    version: str
    norm: Norm
    eps: float  # in pixel units
    budget: Count  # queries per image and stage
    access: Access
    stages: list[str]  # the planned attacks, in order
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
            self.clean_verdict == "undecided" and (self.clean_margin >= 0 or self._end("sign") is None)
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
        here = success_query_of(record, "adversarial")
        if record.verdict == "adversarial" and here is not None:
            stage, success, success_in_stage = number, before + here, here
        if record.verdict == "undecided" and here is not None:
            first_undecided = before + here if first_undecided is None else first_undecided
            undecided_in_stage.append(here)
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

"""The records of the runs behind docs/results/reproduction.md, and tables of what they say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from rfdlight.core.statistics import holm, mcnemar, paired_interval
from rfdlight.errors import UserError
from rfdlight.records.runs import Run, load_run
from rfdlight.records.summary import Estimate
from rfdlight.reporting.grid import pooled_clean, standing
from rfdlight.reporting.report import p_text, points, points_interval


class Records:
    """The runs of a folder by name, read when they are wanted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.run = cache(self._run)

    def _run(self, name: str) -> Run:
        run = load_run(self._folder / name, name)
        if not run.facts.complete:
            raise UserError(f"{name} is not complete")
        return run

    def robust(self, name: str, declared: bool = False) -> Estimate:
        """Return the robust accuracy of a run by the final evaluation, or as its criterion declares it.

        NAME@QUERIES means the run called NAME, as it stood after so many queries.
        """
        run, budget = self._read(name)
        if budget is not None:
            return Estimate.of(sum(standing([run], run.by_id, budget)), len(run.by_id))
        share: Estimate = run.summary.declared if declared else run.summary.mean_logits.robust
        return share

    def _read(self, name: str) -> tuple[Run, int | None]:
        name, _, budget = name.partition("@")
        return self.run(name), int(budget) if budget else None

    def worst(self, names: Iterable[str]) -> Estimate:
        """Return the share of the images that are robust in every one of some runs."""
        runs = [self.run(name) for name in names]
        ids = set.intersection(*(set(run.by_id) for run in runs))
        return Estimate.of(sum(standing(runs, ids, None)), len(ids))

    def clean(self, names: Iterable[str]) -> Estimate:
        """Return the clean accuracy over runs of one method."""
        return pooled_clean([self.run(name) for name in names])

    def insertion_points(self, analysis: str) -> list[dict[str, Any]]:
        """Return what `rfdlight analyze` measured at each place, the image first."""
        places: list[dict[str, Any]] = json.loads((self._folder / analysis / "analysis.json").read_text())["places"]
        return places

    def gradient_norms(self) -> dict[str, float]:
        """Return the mean norm of the margin's gradient at each layer of resnet20, and at the image."""
        return {place["name"]: mean(place["norms"]) for place in self.insertion_points("analysis")}

    def pair(self, first: str, second: str, declared: bool = False) -> tuple[int, int, int]:
        """Count the images that are robust in the first run alone and in the second alone, and those of both runs."""
        read = [self._read(name) for name in (first, second)]
        if declared:
            read = [(run.as_declared(), budget) for run, budget in read]
        ids = sorted(read[0][0].by_id.keys() & read[1][0].by_id.keys())
        one, two = (standing([run], ids, budget) for run, budget in read)
        pairs = list(zip(one, two, strict=True))
        return pairs.count((True, False)), pairs.count((False, True)), len(ids)


def cell(share: Estimate) -> str:
    """Return a share with its interval, in per cent."""
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def differences(
    records: Records, pairs: Sequence[tuple[Sequence[str], str, str]], head: Sequence[str], declared: bool = False
) -> str:
    """Return a table of second less first, each pair with what stands before it, and Holm's p over the table."""
    counts = [records.pair(first, second, declared) for _, first, second in pairs]
    adjusted = holm([mcnemar(first, second) for first, second, _ in counts])
    rows = []
    for (told, *_), (first, second, images), p in zip(pairs, counts, adjusted, strict=True):
        gain = f"{points((second - first) / images)} ({points_interval(paired_interval(first, second, images))})"
        rows.append([*told, gain, f"{second} : {first}", p_text(p)])
    return table([*head, "points", "only", "p, Holm"], rows)

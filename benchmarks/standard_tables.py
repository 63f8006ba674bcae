"""Writes the tables of docs/results/standard-results.md from the records of their standard evaluations.

Usage: python benchmarks/standard_tables.py RUNS [--page docs/results/standard-results.md] [--check]

RUNS holds `standard`, a folder per cell as `rfdlight sweep experiment/standard` leaves them, and `stages` and `four`,
the same of experiment/standard_stages and experiment/standard_4_points; docs/results/standard-records.tar.xz unpacks
so. Each table stands between two comments of the page, `<!-- NAME -->` and `<!-- end NAME -->`, and replaces what is
there. With --check nothing is written, and the exit status says whether the page has the tables of the records.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from page_tables import write
from reproduction_records import cell, table

from rfdlight.core.statistics import PairedCounts, count_pairs, holm
from rfdlight.errors import UserError
from rfdlight.records.runs import Run, load_run
from rfdlight.records.standard import Standard
from rfdlight.reporting.report import p_text, points, points_interval

VICTIMS = {
    "resnet20": "resnet20",
    "vgg19": "thin VGG19",
    "vit": "small ViT",
    "resnet20-at": "resnet20, adversarially trained",
}
NOISES = {"none": "none", "input": "input noise", "feature": "feature noise"}
ALONE = ("bernoulli_multiscale", "square", "parsimonious")
"""Later stages of the standard that were run alone."""
PAIRS = (("none", "input"), ("none", "feature"), ("input", "feature"))

Runs = Mapping[str, Standard]
Stages = Mapping[str, Run]


def robust_accuracy(runs: Runs, stages: Stages) -> str:
    """Return one row per victim and noise: accuracies, bounds, the stages that found images, and the cost."""
    rows = []
    for victim, network in VICTIMS.items():
        for noise, defense in NOISES.items():
            run = runs[f"{victim}-{noise}"]
            summary = run.summary
            found = [f"{stage.attack} {stage.adversarial}" for stage in summary.stages if stage.adversarial]
            rows.append(
                [
                    network,
                    defense,
                    str(len(run.images)),
                    cell(summary.clean),
                    cell(run.stages[0].summary.mean_logits.robust),
                    f"**{cell(summary.robust)}**",
                    f"{100 * summary.robust_lower.value:.1f} to {100 * summary.robust_upper.value:.1f}",
                    ", ".join(found),
                    f"{summary.ledger['queries'] / len(run.images):,.0f}",
                    f"{summary.ledger['rows']:,}",
                    f"{summary.wall_seconds:,.0f}",
                ]
            )
    head = ["victim", "noise", "images", "clean", "`bernoulli` alone", "`standard-1`", "bounds"]
    return table([*head, "adversarial images by attack", "queries per image", "rows", "seconds"], rows)


def differences(runs: Runs, stages: Stages) -> str:
    """Return one row per victim and pair of noises: the second less the first on the same images."""
    named = [(victim, pair) for victim in VICTIMS for pair in PAIRS]
    counts = [_paired(*(runs[f"{victim}-{noise}"] for noise in pair)) for victim, pair in named]
    adjusted = holm([count.p for count in counts])
    rows = [
        [
            VICTIMS[victim],
            f"{NOISES[second]} less {NOISES[first]}",
            f"{points(count.difference)} ({points_interval(count.interval)})",
            f"{count.only_second} : {count.only_first}",
            p_text(p),
        ]
        for (victim, (first, second)), count, p in zip(named, counts, adjusted, strict=True)
    ]
    return table(["victim", "difference", "points", "only", "p, Holm"], rows)


def _paired(first: Standard, second: Standard) -> PairedCounts:
    budget = first.settings.budget * len(first.settings.stages)
    one, two = ({image.id: image.is_robust_at(budget) for image in run.images} for run in (first, second))
    common = sorted(one.keys() & two.keys())
    return PairedCounts(**count_pairs([one[name] for name in common], [two[name] for name in common]))


def stages_alone(runs: Runs, stages: Stages) -> str:
    """Return one row per victim behind feature noise."""
    rows = []
    for victim, network in VICTIMS.items():
        whole = runs[f"{victim}-feature"]
        alone = [whole.stages[0], *(stages[f"{victim}-feature-{attack}"] for attack in ALONE)]
        shares = [cell(run.summary.mean_logits.robust) for run in alone]
        rows.append([network, *shares, f"**{cell(whole.summary.robust)}**"])
    return table(["victim", "`bernoulli`", *(f"`{attack}`" for attack in ALONE), "`standard-1`"], rows)


def four_points(runs: Runs, stages: Stages) -> str:
    """Return one row per victim and noise that was attacked at 4 points too: the larger noise less the smaller."""
    named = [(victim, noise) for victim in VICTIMS for noise in NOISES if f"{victim}-{noise}-4" in runs]
    pairs = [(runs[f"{victim}-{noise}"], runs[f"{victim}-{noise}-4"]) for victim, noise in named]
    counts = [_paired(*pair) for pair in pairs]
    rows = [
        [
            VICTIMS[victim],
            NOISES[noise],
            *(cell(run.summary.robust) for run in pair),
            f"{points(count.difference)} ({points_interval(count.interval)})",
            p_text(p),
        ]
        for (victim, noise), pair, count, p in zip(
            named, pairs, counts, holm([count.p for count in counts]), strict=True
        )
    ]
    return table(["victim", "noise", "2 points", "4 points", "difference", "p, Holm"], rows)


TABLES = {
    "robust accuracy": robust_accuracy,
    "differences": differences,
    "stages alone": stages_alone,
    "four points": four_points,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/results/standard-results.md"))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        names = [f"{victim}-{noise}" for victim in VICTIMS for noise in NOISES]
        runs = {name: Standard.load(options.runs / "standard" / name) for name in names}
        more = [path.parent for path in options.runs.glob("four/*/standard.json")]
        runs |= {folder.name: Standard.load(folder) for folder in more}
        folders = [path.parent for path in options.runs.glob("stages/*/summary.json")]
        stages = {folder.name: load_run(folder) for folder in folders}
        return write(options.page, {name: make(runs, stages) for name, make in TABLES.items()}, options.check)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())

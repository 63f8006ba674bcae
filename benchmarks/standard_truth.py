"""Error of the standard evaluation, on victims that are right in the mean and wrong in many single answers.

Every evaluation draws a normal margin that does not depend on the image, with a positive mean and a known share of
negative values. So each image is robust at every point, and whatever any stage calls adversarial is an error: during
the attack, or by its final verdict. The bound is 5 % over the whole suite.

    python benchmarks/standard_truth.py --images 200 --budget 300
"""

from __future__ import annotations

import argparse
import time
from typing import cast

import torch
from scipy.stats import binom

import rfdlight as rfd
from rfdlight.core.statistics import wilson
from rfdlight.records.standard import Access
from rfdlight.testing.small_victims import IidVictim, normal

BOUND = 0.05


def ever_adversarial(run: rfd.StandardRun) -> int:
    """Return the number of images that the criterion or the final verdict of any stage called adversarial."""
    called = {
        record.id
        for stage in run.stages
        for record in stage.records
        if record.success_query is not None or record.verdict == "adversarial"
    }
    wrong = {image.id for image in run.images if image.verdict == "misclassified"}
    return len(called | wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.20, 0.40, 0.45])
    parser.add_argument("--access", default="both")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    x = torch.full((options.images, 3, 8, 8), 0.5)
    y = torch.zeros(options.images, dtype=torch.int64)
    print("| wrong answers, % | ever adversarial, % | 95 % | not robust, % | undecided, % | queries | rows | minutes |")
    print("|---|---|---|---|---|---|---|---|")
    allowed = binom.isf(0.001, options.images, BOUND)
    worst = 0
    for wrong in options.wrong:
        begun = time.monotonic()
        run = rfd.standard(
            IidVictim(normal(wrong), right_at_gray=False),
            (x, y),
            eps=8 / 255,
            budget=options.budget,
            access=cast(Access, options.access),
            batch_size=min(100, options.images),
            seed=options.seed,
            progress=False,
        )
        called = ever_adversarial(run)
        worst = max(worst, called)
        low, high = wilson(called, options.images)
        row = [
            f"{100 * wrong:.0f}",
            f"{100 * called / options.images:.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{100 * (1 - run.robust_accuracy.value):.1f}",
            f"{100 * run.summary.counts['undecided'] / options.images:.1f}",
            f"{run.summary.ledger['queries']:,}",
            f"{run.rows.total:,}",
            f"{(time.monotonic() - begun) / 60:.1f}",
        ]
        print(f"| {' | '.join(row)} |", flush=True)
    verdict = "holds" if worst <= allowed else "is broken"
    print(f"\nbound of {BOUND:.0%}: {verdict} (at most {allowed:.0f} of {options.images} images at level 0.001)")


if __name__ == "__main__":
    main()

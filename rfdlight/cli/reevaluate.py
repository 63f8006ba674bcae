"""`rfdlight reevaluate`: fresh draws at the final points of a submitted standard evaluation."""

from __future__ import annotations

import secrets
from pathlib import Path

from rich.text import Text

from rfdlight._io import plain_console
from rfdlight.data.base import ImageData
from rfdlight.defenses.base import Defense
from rfdlight.errors import expect
from rfdlight.evaluation.reevaluation import reevaluate
from rfdlight.records.leaderboard import FOLDER, entry_of
from rfdlight.records.standard import Standard
from rfdlight.reporting.leaderboard import PAGE, write_leaderboard
from rfdlight.reporting.tables import with_interval
from rfdlight.victims.resolve import resolve_victim


def reevaluate_run(
    victim: str,
    data: ImageData,
    submission: str,
    leaderboard: str,
    defense: Defense | list[Defense] | None = None,
    checkpoint: str | None = None,
    points: str | None = None,
    seed: int | None = None,
) -> None:
    """Evaluate the final points of a standard evaluation with fresh draws, and put them on a leaderboard.

    Victim, images and defense have to be those of the run, and every point in the ball and in [0, 1]. The entry has
    the robust accuracy by the fresh draws beside the one that the run claims.

    Args:
        victim: As `--model.victim` of `rfdlight test`.
        data: Data set of the run, with its options; by default the victim card's.
        submission: Folder of the standard evaluation, run with `--model.keep_images null`.
        leaderboard: Folder of the leaderboard, as of `rfdlight report --leaderboard`.
        defense: Defense of the run; `--defense+ NAME` adds another one.
        checkpoint: As `--model.checkpoint` of `rfdlight test`.
        points: File of final points instead of those that the run kept: a safetensors file with the float32 tensor
            `adversarial`, (images, C, H, W) in [0, 1], and in its metadata `ids`, the JSON list of the image ids.
        seed: Seed of the draws, by default one that nobody knows beforehand; the entry names it.

    Raises:
        UserError: If something is not the run's, or a point is missing, unknown, or outside the ball or [0, 1].
    """
    expect(seed is None or 0 <= seed < 2**53, "seed", "a number from 0 to 2^53 - 1", seed)
    entry = entry_of(Path(submission))
    found = reevaluate(
        Standard.load(submission),
        entry.digests,
        resolve_victim(victim, checkpoint, data),
        data,
        defense or (),
        None if points is None else Path(points),
        secrets.randbits(32) if seed is None else seed,
    )
    count = write_leaderboard(Path(leaderboard), [entry.with_reevaluation(found)])
    turned = found.overturned
    lines = [
        f"{entry.name}: {entry.images:,} images, {entry.victim}; defense {entry.defense}",
        f"robust accuracy claimed       {with_interval(entry.robust)}",
        f"robust accuracy re-evaluated  {with_interval(found.robust)}",
        f"clean accuracy  re-evaluated  {with_interval(found.clean)}",
        f"turned round: {turned.to_robust:,} adversarial images are robust, {turned.to_adversarial:,} robust ones "
        "adversarial",
        f"{PAGE}, {FOLDER}: {leaderboard}, {count:,} in all",
    ]
    plain_console().print(Text("\n".join(lines)), soft_wrap=True)

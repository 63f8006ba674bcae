"""Selection of the attacked images of a split."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from rfdlight.data.sources import ImageSource, UnreadableImageError
from rfdlight.errors import UserError, unknown_name

SELECTIONS = ("balanced", "first", "random")


def select(
    ids: Sequence[str],
    labels: Sequence[int],
    count: int,
    selection: str,
    seed: int,
    usable: Callable[[int], bool] = lambda position: True,
) -> list[int]:
    """Return the positions of `count` chosen images, ordered by id, whatever order the images are stored in.

    "balanced" draws equally many of each class (the smallest class indices take the remainder), "first" takes the first
    in order of id, "random" draws from all. With the same selection and seed, a smaller subset is part of every larger
    one. An image that is not `usable` changes only its own place, which the next image of the drawn order takes.

    Example:
        >>> select(["c", "a", "b", "d"], [0, 0, 1, 1], 2, "first", seed=0)
        [1, 2]
    """
    if selection not in SELECTIONS:
        raise unknown_name("selection", selection, SELECTIONS)
    if not 1 <= count <= len(ids):
        raise UserError(f"data.num_images must be from 1 to {len(ids)} for this data, got {count}")
    groups = defaultdict(list)
    for position in sorted(range(len(ids)), key=ids.__getitem__):
        groups[labels[position] if selection == "balanced" else 0].append(position)
    draw = random.Random(seed)
    share, left_over = divmod(count, len(groups))
    chosen = []
    for rank, group in enumerate(sorted(groups)):
        wanted = share + (rank < left_over)
        if selection != "first":
            draw.shuffle(groups[group])
        found = list(islice(filter(usable, groups[group]), wanted))
        if len(found) < wanted:
            of_class = f" of class {group}" if selection == "balanced" else ""
            raise UserError(f"data.num_images {count} needs {wanted} images{of_class}, the data has {len(found)}")
        chosen += found
    return sorted(chosen, key=ids.__getitem__)


def spread(positions: list[int], count: int) -> list[int]:
    """Return so many of the positions, evenly spread."""
    if len(positions) <= count:
        return positions
    return [positions[i * len(positions) // count] for i in range(count)]


@dataclass(frozen=True)
class AttackedSubset:
    """The attacked images of a test split; the reasons why images cannot be read are by id."""

    positions: list[int]
    """Of the images that can be read, ordered by id."""
    quarantined: dict[str, str] = field(default_factory=dict)
    """Chosen images that cannot be read."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Images that cannot be read and that others replace."""


def attacked_subset(test: ImageSource, count: int | None, most: int, selection: str, seed: int) -> AttackedSubset:
    """Choose the attacked images, and apply the policy for files that cannot be read.

    Without a `count`, all images of a split of at most `most` are chosen, and `most` of a larger one.
    """
    errors: dict[int, UnreadableImageError] = {}
    skip = test.unreadable == "skip"

    def readable(position: int) -> bool:
        error = test.error_at(position)
        if error is not None:
            if error.refused:
                raise error
            if skip:
                error.leave_out()
            errors[position] = error
        return error is None

    usable = readable if skip else lambda position: True
    if count is None and len(test) <= most:
        chosen = sorted(filter(usable, range(len(test))), key=test.ids.__getitem__)
    else:
        chosen = select(test.ids, test.labels.tolist(), most if count is None else count, selection, seed, usable)
    positions = chosen if skip else list(filter(readable, chosen))
    if not positions:
        first = next(iter(errors.values()))
        raise UserError(f"none of the {len(errors):,} test images can be read; the first: {first}")
    reasons = {test.ids[position]: str(error) for position, error in errors.items()}
    return AttackedSubset(positions, **{"skipped" if skip else "quarantined": reasons})

"""Blacklight: detects query-based attacks by the similarity of their queries."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from heapq import nlargest
from itertools import chain

import torch
from torch import Tensor, nn

from rfdlight.core.arguments import class_name, text_of
from rfdlight.defenses.policy import Action, QueryPolicy
from rfdlight.errors import expect

_SMALL_SIDE = 64
"""Shorter side of images, in pixels, up to which the window of small images is the default."""


class Blacklight(QueryPolicy):
    """Blacklight: flags a query whose fingerprint shares many hashes with that of an earlier query of any account.

    Pixels are rounded down to multiples of `step`, of 255. Every run of `window` values of the image is hashed by
    SHA-256 with a secret salt. The fingerprint is the set of the `hashes` largest of the distinct hashes. A query is
    detected if it shares at least `threshold` of them with a stored fingerprint. Every query is stored, a refused one
    too. Cost: some 3,000 hashes per CIFAR-10 image on the CPU, and a look-up of `hashes` hashes.

    Source: Li, Shan, Wenger, Zhang, Zheng, Zhao, Blacklight: Scalable Defense for Neural Networks against Query-Based
    Black-Box Attacks, USENIX Security 2022, with the parameters of that paper as we know them. Written without its
    code. Details that we could not check against the paper, each a possible deviation: (1) rounding is down, not to
    the nearest; (2) values run row by row with the channels of a pixel side by side; (3) the salt is 16 bytes before
    each window, not a pattern added to the pixels; (4) `threshold` itself is a match; (5) refused queries are stored;
    (6) the window is 20 for images of up to 64 pixels and 50 for larger ones, where the paper chooses by data set; (7)
    nothing is ever forgotten, where the paper resets its store from time to time.

    Args:
        action: What follows a detection: "flag" answers, "refuse" does not, "ban" refuses and closes the account.
        window: Values per hash, >= 1; by default 20 for images of a shorter side of up to 64 pixels, else 50.
        step: Quantisation step of pixels of 0 to 255, 1 to 255.
        hashes: Hashes per fingerprint, >= 1.
        threshold: Shared hashes that make a match, 1 to `hashes`.

    Raises:
        UserError: If an option lies outside of its range, or a window is longer than the image.
    """

    def __init__(
        self,
        action: Action = "refuse",
        window: int | None = None,
        step: int = 50,
        hashes: int = 50,
        threshold: int = 25,
    ) -> None:
        super().__init__(action)
        expect(window is None or window >= 1, "defense.window", "at least 1", window)
        expect(1 <= step <= 255, "defense.step", "1 to 255", step)
        expect(hashes >= 1, "defense.hashes", "at least 1", hashes)
        expect(1 <= threshold <= hashes, "defense.threshold", f"1 to {hashes}, the hashes", threshold)
        self.window = window
        self.step = step
        self.hashes = hashes
        self.threshold = threshold
        self.begin(0)

    def describe(self, model: nn.Module) -> str:
        """Return the options."""
        window = "by size" if self.window is None else text_of(self.window)
        return (
            f"{class_name(type(self))} {self.action} window {window} step {self.step} hashes {self.hashes} "
            f"threshold {self.threshold} on the queries"
        )

    def begin(self, seed: int) -> None:
        self._salt = hashlib.sha256(f"blacklight:{seed}".encode()).digest()[:16]
        self._stored = 0
        self._holders: defaultdict[bytes, list[int]] = defaultdict(list)  # the stored queries with each hash

    def fingerprints(self, points: Tensor) -> list[list[bytes]]:
        """Return the fingerprints of points (rows, C, H, W) in [0, 1], the largest hash first."""
        window = (20 if min(points.shape[2:]) <= _SMALL_SIDE else 50) if self.window is None else self.window
        values = points[0].numel()
        expect(window <= values, "defense.window", f"at most {values}, the values of an image", window)
        # Multiples of 1 / 255 stay whole numbers in float32.
        quantised = (points * 255).round(decimals=3).div(self.step).floor().to(torch.uint8).permute(0, 2, 3, 1).cpu()
        prints = []
        for row in quantised:
            content = row.numpy().tobytes()
            distinct = {content[start : start + window] for start in range(values - window + 1)}
            digests = (hashlib.sha256(self._salt + run).digest() for run in distinct)
            prints.append(nlargest(self.hashes, digests))
        return prints

    def detect(self, points: Tensor, accounts: Sequence[str]) -> Tensor:
        return torch.tensor([self._matches(found) for found in self.fingerprints(points)], dtype=torch.bool)

    def _matches(self, found: list[bytes]) -> bool:
        """Store a fingerprint, and return whether it matches an earlier one."""
        holders = [self._holders[digest] for digest in found]
        # The latest query with these hashes is mostly the attack's last one. All stored queries are counted if not.
        shared = Counter(queries[-1] for queries in holders if queries)
        if max(shared.values(), default=0) < self.threshold:
            shared = Counter(chain.from_iterable(holders))
        for queries in holders:
            queries.append(self._stored)
        self._stored += 1
        return max(shared.values(), default=0) >= self.threshold

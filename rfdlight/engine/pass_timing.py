"""Choice of the batch size and of the memory format, from the speed of a few forward passes on the device at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median

import torch
from torch import Tensor, nn

from rfdlight.engine.config import MOST_ROWS
from rfdlight.engine.failures import is_out_of_memory
from rfdlight.engine.oracle import Oracle, OracleConfig
from rfdlight.errors import UserError

_TIMED = 3
"""Timed forward passes of each size and format; the median counts."""

_PASSES = 1 + _TIMED
"""Forward passes of each size and format: the first one makes plans and is not timed."""

_SHARE = 0.005
"""Largest share of the time of the queries of all budgets, of which a run may make a quarter."""

_GAIN = 1.05
"""How many times as fast another size or format has to be."""

Rate = Callable[[int, bool], float]
"""Returns rows per second of forward passes of some rows, in channels-last memory or not; 0 where these passes fail."""


@dataclass(frozen=True)
class PassChoice:
    """The chosen rows and memory format of forward passes, and the rates that were measured."""

    rows: int
    channels_last: bool
    rates: dict[tuple[int, bool], float]  # rows per second, by rows and whether in channels-last memory
    seconds: float  # that the timing took

    def __str__(self) -> str:
        tried = ", ".join(
            f"{rows}{'' if channels_last else ' contiguous'}: {f'{rate:,.0f} rows/s' if rate else 'fails'}"
            for (rows, channels_last), rate in self.rates.items()
        )
        memory = "channels-last" if self.channels_last else "contiguous"
        return f"batch size {self.rows} in {memory} memory chosen in {self.seconds:.1f} s ({tried})"


def is_timed(queries: int) -> bool:
    """Return whether so many queries to come are worth a timing.

    Example:
        >>> is_timed(100 * 1000), is_timed(1000 * 1000)
        (False, True)
    """
    return queries * _SHARE >= 5 * MOST_ROWS * _PASSES


@dataclass
class _Trials:
    """Times forward passes, each given by its rows and by whether it is in channels-last memory."""

    rate: Rate
    images: float
    seconds: float  # that may still be spent
    rates: dict[tuple[int, bool], list[float]] = field(default_factory=dict)

    def measure(self, passes: tuple[int, bool], expected: float) -> None:
        """Time some passes, unless that takes too long at the rate that they are expected to have."""
        if _PASSES * passes[0] > self.seconds * expected:
            return
        found = self.rate(*passes)
        self.rates.setdefault(passes, []).append(found)
        if found:
            self.seconds -= _PASSES * passes[0] / found

    def useful(self, passes: tuple[int, bool]) -> list[float]:
        """Return the rates of some passes without the padding at the end of the run."""
        return [rate / (1 + (passes[0] / self.images) ** 2) for rate in self.rates.get(passes, [])]

    def gains(self, other: tuple[int, bool], chosen: tuple[int, bool]) -> bool:
        """Return whether other passes are faster than those chosen so far, also in a second trial if time is left."""
        expected = max(self.rates[chosen])
        for trial in range(2):
            self.measure(other, expected)
            if trial and len(self.rates[chosen]) == 1:
                self.measure(chosen, expected)
            if min(self.useful(other), default=0.0) <= _GAIN * max(self.useful(chosen)):
                return False
        return True


def choose(
    rate: Rate,
    rows: int,
    *,
    most: int,
    images: float,
    queries: int,
    step: int = 1,
    channels_last: bool | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> PassChoice | None:
    """Choose rows and memory format by timing, None if the passes of the default rows fail.

    Contiguous memory must be faster by 5 % at the default rows. These are doubled while that is faster by 5 %, or else
    halved once. Before a change old and new passes are timed again, since the load of a machine changes: the slower
    trial of the new ones must be faster than the other one of the old. A pass of many rows is mostly padding once few
    images are left. If images fall evenly over the queries of the budget, these passes add (rows / images)^2 to the
    useful rows, so rates are divided by one plus that.

    Args:
        rate: Measures.
        rows: By default, a multiple of `step`.
        most: Rows, at most.
        images: To attack; with averaged queries, the evaluations of one query of each image.
        queries: To come, at most; the timing takes at most 0.5 % of their time at the rate of the default rows.
        step: Rows of one query.
        channels_last: The memory format, None to choose.
        clock: Returns seconds.
    """
    begun, best, in_format = clock(), rows, channels_last is not False
    found = rate(rows, in_format)
    if not found:
        return None
    seconds = (queries * _SHARE - _PASSES * rows) / found
    trials = _Trials(rate, images, seconds, {(rows, in_format): [found]})
    if channels_last is None:
        in_format = not trials.gains((rows, False), (rows, True))
    while best < most and trials.gains((size := min(2 * best, most), in_format), (best, in_format)):
        best = size
    half = rows // 2 // step * step  # smaller passes would leave much to the fixed cost of one, which is not timed
    if best == rows and half and trials.gains((half, in_format), (best, in_format)):
        best = half
    rates = {passes: median(found) for passes, found in trials.rates.items()}
    return PassChoice(best, in_format, rates, clock() - begun)


class PassTimer:
    """Measures the speed of a victim's eager forward passes, with noise of its own and the memory of a full pool taken.

    A victim that is compiled later is timed before: a compilation for each size would take minutes.

    Args:
        victim: In eval mode, with its defenses attached; the memory format of its weights changes.
        image: (1, C, H, W) in [0, 1].
        config: Noise and precision.
        gradients: Whether the attack reads gradients.
        image_bytes: Memory of an image in the pool.
        clock: Returns seconds.
    """

    def __init__(
        self,
        victim: nn.Module,
        image: Tensor,
        config: OracleConfig,
        *,
        gradients: bool = False,
        image_bytes: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._victim = victim
        self._image = image
        self._config = config
        self._gradients = gradients
        self._image_bytes = image_bytes
        self._clock = clock
        self.forwarded = 0
        """Rows that the victim has answered."""

    def __call__(self, rows: int, channels_last: bool) -> float:
        """Return rows per second, the median of a few passes; 0 where the victim fails or memory runs out."""
        oracle = Oracle(self._victim, rows, replace(self._config, channels_last=channels_last))
        points = self._image.expand(rows, *self._image.shape[1:])
        try:
            pool = torch.empty(2 * rows * self._image_bytes, dtype=torch.uint8, device=points.device)
            seconds = [self._seconds(oracle, points) for _ in range(_PASSES)][1:]
            del pool
        except Exception as error:
            if isinstance(error, UserError) or is_out_of_memory(error):
                return 0.0
            raise
        finally:
            oracle.close()
            self.forwarded += oracle.forwarded
        return rows / max(median(seconds), 1e-9)

    def _seconds(self, oracle: Oracle, points: Tensor) -> float:
        device = points.device
        begun = self._clock()
        ticks = torch.zeros(len(points), dtype=torch.int64, device=device)
        if self._gradients:
            oracle.gradients(points, ticks, lambda logits: logits.sum(1))
        else:
            oracle.scores(points, ticks, "attack")
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return self._clock() - begun

"""Work sharing over the processes of one run, through the key-value store of the process group."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from rfdlight.errors import UserError, one_line

_PAUSE = 0.05
"""Seconds between two polls while waiting."""

_BEAT = 1.0
"""Smallest number of seconds between two polls during an attack."""

_GRACE = 60.0
"""Seconds that process 0 waits for the other processes of a stopped run."""

_runs = itertools.count()
"""Numbers the runs of this process: several may share one store."""


class ReportedByLeader(UserError):  # noqa: N818  no error of this process
    """The run ends for a reason that process 0 reports."""


class Processes:
    """Shares images, counts, failures and the end of a run among its processes, through a key-value store.

    There is no collective operation: no process waits for a forward pass of another one, and nothing times out.
    Process 0 holds the store and leaves last; a process that loses the store stops and keeps its results.

    Several runs may follow each other, in the same order in all processes: `next_run` begins the next one, which shares
    nothing with those before it but the end of all, by a stop or by a failure.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.stopping = False
        self.lost = False  # the store is gone, and process 0 with it
        self.random = False  # another process has found the victim random
        self._store = dist.PrefixStore(
            f"rfdlight-{next(_runs) if size > 1 else 'alone'}", _get_default_store() if size > 1 else dist.HashStore()
        )
        self._looked = 0.0
        self._number = 0  # of the run
        self._together: list[int] = []

    @property
    def leads(self) -> bool:
        """Whether this is process 0, which writes the run directory and prints messages."""
        return self.rank == 0

    def next_run(self) -> None:
        """Begin the next run of the same processes."""
        self._number += 1
        self.random = False
        self._together = []

    def publish(self, name: str, value: Any) -> None:
        """Send a JSON value to all other processes."""
        self._store.set(self._key(name), json.dumps(value))

    def wait_for(self, name: str) -> Any:
        """Wait for the value that process 0 publishes under a name."""
        self._wait(lambda: self._has(name))
        return self._get(name)

    def agreed(self, name: str, value: Callable[[], Any]) -> Any:
        """Return a JSON value that process 0 computes, in every process."""
        if self.leads:
            self.publish(name, value())
        return self.wait_for(name)

    def barrier(self) -> None:
        """Wait until every process has reached this call, or one of them has failed."""
        self.publish(f"ready/{self.rank}", True)
        if self.leads:
            self._wait(lambda: self._all_have("ready"))
            self.publish("agreed", True)
        else:
            self.wait_for("agreed")

    def chunks(self, total: int, most: int) -> Iterator[range]:
        """Yield ranges of 0 to `total` that no other process gets, of at most `most` numbers, until the run is stopped.

        Each is taken when it is needed, and they get smaller, so that free processes take the last ones.
        """
        while not self.stopping:
            fair = self.left(total) // (2 * self.size) if self.size > 1 else most
            chunk = max(1, min(most, fair))
            start = self._dealt(chunk) - chunk
            if self.lost or start >= total:
                return
            yield range(start, min(start + chunk, total))

    def left(self, total: int) -> int:
        """Return the number of images that no process has taken."""
        return max(0, total - self._dealt(0))

    def stop(self) -> None:
        """Stop all processes of the run; a signal handler may call it."""
        self.stopping = True
        self._looked = 0.0

    def poll(self, counts: Callable[[], Sequence[int]]) -> None:
        """Exchange failures and the counts of this process with the other processes, at most once a second."""
        now = time.monotonic()
        if now - self._looked >= _BEAT:
            self._looked = now
            with self._losing():
                self._exchange(counts)

    def send_last(self, counts: Sequence[int]) -> None:
        """Send the counts of this process at its end to process 0."""
        if not self.leads:
            with self._losing():
                self.publish(f"done/{self.rank}", list(counts))

    def total(self, counts: Sequence[int]) -> list[int]:
        """Return the sum of the counts of all processes; in other processes than 0, those of this process alone."""
        return [own + other for own, other in itertools.zip_longest(counts, self._together, fillvalue=0)]

    def report_failure(self, error: BaseException) -> None:
        """Publish that this process failed."""
        if isinstance(error, ReportedByLeader):
            return
        reason = str(error) if isinstance(error, UserError) else one_line(f"{type(error).__name__}: {error}")
        with self._losing():
            self._store.set("end" if self.leads else "failed", f"process {self.rank}: {reason}")

    def finish_together(self, waiting: Callable[[], Any]) -> None:
        """Wait until every process has attacked its images, or the run is stopped; `waiting` is called repeatedly."""
        with self._losing():
            self.publish(f"attacked/{self.rank}", True)
            while not (self.stopping or self._all_have("attacked")):
                waiting()
                time.sleep(_PAUSE)

    def leave(self, waiting: Callable[[], Any] = lambda: None) -> None:
        """Leave the run; process 0 waits for all others, at most a minute if the run is stopped."""
        if not self.leads:
            with self._losing():
                self._send_stop()
                self.publish(f"left/{self.rank}", True)
            return
        patience = time.monotonic() + _GRACE
        while not all(self._has(f"left/{rank}") for rank in range(1, self.size)):
            if not self.stopping:
                patience = time.monotonic() + _GRACE
            if time.monotonic() > patience:
                break
            try:
                waiting()
            except UserError:  # which is raised again below
                self.stopping = True
            time.sleep(_PAUSE)
        self._add_counts()
        self._check_others()

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Record the loss of the store; process 0, which holds it, fails instead."""
        try:
            yield
        except RuntimeError:
            if self.leads:
                raise
            self.lost = self.stopping = True

    def _dealt(self, more: int) -> int:
        """Take a number of images, and return how many are taken."""
        with self._losing():
            return self._store.add(self._key("dealt"), more)
        return 0

    def _exchange(self, counts: Callable[[], Sequence[int]]) -> None:
        self._send_stop()
        self.stopping = self.stopping or self._store.check(["stop"]) or self._store.check(["end"])
        self.random = self.random or self._has("random")
        if self.leads:
            self._check_others()
            self._add_counts()
        else:
            self.publish(f"done/{self.rank}", list(counts()))

    def _add_counts(self) -> None:
        """Add the last counts of all other processes, in process 0."""
        counted = [self._get(f"done/{rank}") for rank in range(1, self.size) if self._has(f"done/{rank}")]
        self._together = [sum(counts) for counts in zip(*counted, strict=True)]

    def _wait(self, come: Callable[[], bool]) -> None:
        try:
            while not come():
                self._send_stop()
                if self.leads:
                    self._check_others()
                elif self._store.check(["end"]):
                    raise ReportedByLeader("process 0 ends the run")
                time.sleep(_PAUSE)
        except RuntimeError as error:
            self.lost = self.stopping = True
            raise ReportedByLeader("process 0 is gone") from error

    def _check_others(self) -> None:
        """Raise if another process failed."""
        if self._store.check(["failed"]):
            raise UserError(self._store.get("failed").decode())

    def _send_stop(self) -> None:
        """Publish the stop of this process, if there is one; it holds for all runs."""
        if self.stopping:
            self._store.set("stop", "")

    def _all_have(self, name: str) -> bool:
        return all(self._has(f"{name}/{rank}") for rank in range(self.size))

    def _has(self, name: str) -> bool:
        return bool(self._store.check([self._key(name)]))

    def _get(self, name: str) -> Any:
        return json.loads(self._store.get(self._key(name)))

    def _key(self, name: str) -> str:
        """Return the key of a value of the current run."""
        return f"{self._number}/{name}"

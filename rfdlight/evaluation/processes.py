"""The processes of one run, and what they tell each other."""

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
"""Seconds between two looks at what is waited for."""

_BEAT = 1.0
"""Seconds, at least, between two looks during an attack."""

_GRACE = 60.0
"""Seconds that process 0 waits for the others after the run was told to stop."""

_runs = itertools.count()
"""Numbers the runs of this process: several may share one store."""


class ReportedByLeader(UserError):  # noqa: N818  no error of this process
    """The run ends for a reason that process 0 says."""


class Processes:
    """Shares images, news and the end of a run among its processes, through the process group's key-value store.

    There is no collective, so nobody waits for another one's forward pass and nothing times out. Process 0, which holds
    the store, is the last to leave; a process that finds the store gone stops with what it has.

    Args:
        rank: Of this process.
        size: How many there are; one alone needs no process group.

    Attributes:
        stopping: Whether the run was told to end.
        lost: Whether the store is gone, and process 0 with it.
        random: Whether another process has found the victim random.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.stopping = False
        self.lost = False
        self.random = False
        self._store = dist.PrefixStore(
            f"rfdlight-{next(_runs) if size > 1 else 'alone'}", _get_default_store() if size > 1 else dist.HashStore()
        )
        self._looked = 0.0
        self._together: list[int] = []

    @property
    def leads(self) -> bool:
        """Whether this is process 0, which keeps the run directory and talks to the user."""
        return self.rank == 0

    def tell(self, name: str, value: Any) -> None:
        """Tell all others something that JSON knows."""
        self._store.set(name, json.dumps(value))

    def hear(self, name: str) -> Any:
        """Wait for what process 0 tells under a name.

        Raises:
            ToldElsewhere: If the run ends first, or process 0 is gone.
        """
        self._wait(lambda: self._has(name))
        return json.loads(self._store.get(name))

    def agree(self) -> None:
        """Wait until every process has come here.

        Raises:
            UserError: In process 0, if one of them failed on its way.
            ToldElsewhere: In the others.
        """
        self.tell(f"ready/{self.rank}", True)
        if self.leads:
            self._wait(lambda: all(self._has(f"ready/{rank}") for rank in range(self.size)))
            self.tell("agreed", True)
        else:
            self.hear("agreed")

    def deal(self, total: int, most: int) -> Iterator[range]:
        """Yield chunks of 0 to `total` that no other process gets, each drawn when it is asked for.

        Towards the end the chunks get smaller, so that the last ones go to whoever is free. A run that was told to stop
        gets no more of them.

        Args:
            total: How many there are; the same in every process.
            most: In a chunk.
        """
        while not self.stopping:
            fair = self.left(total) // (2 * self.size) if self.size > 1 else most
            chunk = max(1, min(most, fair))
            start = self._dealt(chunk) - chunk
            if self.lost or start >= total:
                return
            yield range(start, min(start + chunk, total))

    def left(self, total: int) -> int:
        """Return how many no process has drawn yet."""
        return max(0, total - self._dealt(0))

    def stop(self) -> None:
        """Have all processes stop where they are; may be called by a signal handler."""
        self.stopping = True
        self._looked = 0.0

    def look(self, counts: Callable[[], Sequence[int]]) -> None:
        """Look what the others say, at most once a second.

        Args:
            counts: Returns some counts of this process, which `together` adds up.

        Raises:
            UserError: In process 0, if another one failed.
        """
        now = time.monotonic()
        if now - self._looked >= _BEAT:
            self._looked = now
            with self._losing():
                self._exchange(counts)

    def together(self, counts: Sequence[int]) -> list[int]:
        """Return the counts of all processes at the last look and of this one now; of this one alone in the others."""
        return [own + other for own, other in itertools.zip_longest(counts, self._together, fillvalue=0)]

    def fail(self, error: BaseException) -> None:
        """Tell the others that this process cannot go on."""
        if isinstance(error, ReportedByLeader):
            return
        told = str(error) if isinstance(error, UserError) else one_line(f"{type(error).__name__}: {error}")
        with self._losing():
            self.tell("end" if self.leads else "failed", f"process {self.rank}: {told}")

    def await_all(self, waiting: Callable[[], Any]) -> None:
        """Wait until every process has come here, or the run is stopped.

        Args:
            waiting: Called again and again meanwhile; what it raises ends the waiting.
        """
        with self._losing():
            self.tell(f"attacked/{self.rank}", True)
            while not (self.stopping or all(self._has(f"attacked/{rank}") for rank in range(self.size))):
                waiting()
                time.sleep(_PAUSE)

    def leave(self, waiting: Callable[[], Any] = lambda: None) -> None:
        """Leave the run; process 0 waits for all others, for a minute at most if the run was told to stop.

        Args:
            waiting: Called again and again meanwhile.

        Raises:
            UserError: In process 0, if another one failed.
        """
        if not self.leads:
            with self._losing():
                self.tell(f"left/{self.rank}", True)
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
        self._check_others()

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Take note where the store is gone; process 0, which holds it, cannot go on without."""
        try:
            yield
        except RuntimeError:
            if self.leads:
                raise
            self.lost = self.stopping = True

    def _dealt(self, more: int) -> int:
        """Draw so many more, and return how many are drawn."""
        with self._losing():
            return self._store.add("dealt", more)
        return 0

    def _exchange(self, counts: Callable[[], Sequence[int]]) -> None:
        if self.stopping:
            self.tell("stop", True)
        self.stopping = self.stopping or self._has("stop") or self._has("end")
        self.random = self.random or self._has("random")
        if self.leads:
            self._check_others()
            told = [self._store.get(f"done/{rank}") for rank in range(1, self.size) if self._has(f"done/{rank}")]
            self._together = [sum(counts) for counts in zip(*map(json.loads, told), strict=True)]
        else:
            self.tell(f"done/{self.rank}", list(counts()))

    def _wait(self, come: Callable[[], bool]) -> None:
        try:
            while not come():
                if self.leads:
                    self._check_others()
                elif self._has("end"):
                    raise ReportedByLeader("process 0 ends the run")
                time.sleep(_PAUSE)
        except RuntimeError as error:
            raise ReportedByLeader("process 0 is gone") from error

    def _check_others(self) -> None:
        """Refuse to go on without another process."""
        if self._has("failed"):
            raise UserError(json.loads(self._store.get("failed")))

    def _has(self, name: str) -> bool:
        return bool(self._store.check([name]))

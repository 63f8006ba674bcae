"""Processes on this machine, each of which runs one pack of cells after the other."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from rfdlight.cli.sweep.cell_files import FOLDER
from rfdlight.cli.sweep.experiment import Resources
from rfdlight.cli.sweep.launchers import Ended, Launcher, check_fit, cores, visible_devices
from rfdlight.cli.sweep.packs import Pack
from rfdlight.errors import UserError

_ENDING = 60.0
"""Seconds that processes get to write the summaries of their finished images before they are killed."""


@dataclass
class _Process:
    """A process and the pack that it runs."""

    process: subprocess.Popen[bytes]
    log: Path
    pack: Pack | None = None


class LocalProcesses(Launcher):
    """Runs packs in `jobs` processes of this machine.

    Each process uses one GPU, in turn, or its part of the cores; a variable OMP_NUM_THREADS that is set decides
    instead. A process that is killed is replaced when the next pack needs it.
    """

    def __init__(self, folder: Path, apart: Iterable[str], jobs: int) -> None:
        super().__init__(folder, apart)
        self.processes = jobs
        self._devices = visible_devices()
        self._cores = cores()
        self._places: list[_Process | None] = [None] * jobs
        self._selector = selectors.DefaultSelector()

    def check(self, needs: Mapping[str, Resources]) -> None:
        check_fit(needs, len(self._devices), self._cores, "this machine")
        for cell, need in needs.items():
            if (need.gpus or 0) > 1:
                raise UserError(
                    f"cell {cell}: resources.gpus: expected at most 1 with --jobs {self.processes}, got {need.gpus:g}; "
                    "--launcher ray runs cells of several GPUs beside others, --jobs 1 one after the other"
                )

    @property
    def capacity(self) -> int:
        return sum(place is None or place.pack is None for place in self._places)

    def submit(self, packs: Sequence[Pack]) -> None:
        waiting = list(packs)
        for number, place in enumerate(self._places):
            if not waiting:
                return
            if place is None:
                place = self._places[number] = self._start(number)
            if place.pack is None:
                place.pack = waiting.pop(0)
                self._send(place)

    def wait(self, seconds: float) -> list[Ended]:
        ended = []
        for key, _ in self._selector.select(seconds):
            number: int = key.data
            place = self._places[number]
            assert place is not None
            pack, place.pack = place.pack, None
            if os.read(key.fd, 4096):
                ended += [Ended(pack)] if pack else []
                continue
            self._forget(number)
            ended += [Ended(pack, _how_it_ended(place))] if pack else []
        return ended

    def close(self) -> str:
        alive = [place for place in self._places if place is not None]
        for place in alive:
            if place.pack is not None:
                place.process.terminate()
            _input_of(place).close()  # a stopped cell ends, and its process then finds no other one
        deadline = time.monotonic() + _ENDING
        for place in alive:
            try:
                place.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                place.process.kill()
                place.process.wait()
        self._selector.close()
        return ""

    def _start(self, number: int) -> _Process:
        environment = dict(os.environ)
        if self._devices:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[number % len(self._devices)]
        environment.setdefault("OMP_NUM_THREADS", str(max(1, self._cores // self.processes)))
        log = self.folder / FOLDER / f"process-{number}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "rfdlight.cli.sweep.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,  # Ctrl-C at the terminal reaches the sweep, which ends the others
            )
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, number)
        return _Process(process, log)

    def _send(self, place: _Process) -> None:
        assert place.pack is not None
        try:
            stream = _input_of(place)
            stream.write(msgspec.json.encode(self.assignment(place.pack)) + b"\n")
            stream.flush()
        except OSError:
            pass  # the process is dead, which `wait` reports

    def _forget(self, number: int) -> None:
        place = self._places[number]
        assert place is not None
        assert place.process.stdout is not None
        self._selector.unregister(place.process.stdout)
        place.process.wait()
        self._places[number] = None


def _input_of(place: _Process) -> IO[bytes]:
    assert place.process.stdin is not None
    return place.process.stdin


def _how_it_ended(place: _Process) -> str:
    status = place.process.returncode
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    lines = [line for line in place.log.read_text(errors="replace").splitlines() if line.strip()]
    return f"its process ended with {how}" + (f": {lines[-1].strip()}" if lines and status > 0 else "")

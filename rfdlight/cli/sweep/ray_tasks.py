"""Tasks of Ray: many GPUs of one machine, or a cluster that `ray start` has made."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rfdlight.cli.sweep.cell_files import FOLDER
from rfdlight.cli.sweep.experiment import Resources
from rfdlight.cli.sweep.launchers import Ended, Launcher, check_fit
from rfdlight.cli.sweep.packs import Pack
from rfdlight.cli.sweep.ray_cluster import processes
from rfdlight.cli.sweep.worker import run_assignment
from rfdlight.core.extras import imported
from rfdlight.errors import UserError, one_line

_SEEN = 60.0
"""Seconds in which every node has to answer whether it sees the folder of the sweep."""


class RayTasks(Launcher):
    """Runs packs as tasks of Ray, each with the GPUs and cores of its cells, at most `jobs` at a time.

    Tasks are submitted longest first. Ray ends them when this process ends.

    Args:
        folder: Folder of the sweep.
        apart: Cells that start processes of their own.
        jobs: How many tasks run at the same time; None for as many as fit.
        ray: The module, connected to the cluster.
    """

    def __init__(self, folder: Path, apart: Iterable[str], jobs: int | None, ray: Any) -> None:
        super().__init__(folder, apart)
        self._ray = ray
        self._jobs = jobs
        self._packs: dict[Any, Pack] = {}
        self._task = ray.remote(max_retries=0)(run_assignment)
        self.processes = processes(ray, jobs)

    @property
    def has_gpus(self) -> bool:
        return bool(self._ray.cluster_resources().get("GPU"))

    def check(self, needs: Mapping[str, Resources]) -> None:
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        for cell, need in needs.items():
            fits = [node for node in nodes if _fits(need, node["Resources"])]
            if not fits:
                gpus, cpus = (max(node["Resources"].get(kind, 0) for node in nodes) for kind in ("GPU", "CPU"))
                check_fit({cell: need}, gpus, cpus, "the largest node")
                raise UserError(f"cell {cell}: resources: expected a node with gpus and cpus at once, got none")
        self._check_folder(nodes)

    def _check_folder(self, nodes: list[dict[str, Any]]) -> None:
        """Refuse a folder that a node does not see."""
        strategy = imported("ray.util.scheduling_strategies", "ray", "--launcher ray").NodeAffinitySchedulingStrategy
        (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
        mark = self.folder / FOLDER / f"seen-{secrets.token_hex(4)}"
        mark.touch()
        look = self._ray.remote(num_cpus=0, max_retries=0)(os.path.exists)
        try:
            seen = {
                node["NodeManagerAddress"]: look.options(
                    scheduling_strategy=strategy(node_id=node["NodeID"], soft=False)
                ).remote(str(mark))
                for node in nodes
            }
            self._ray.wait(list(seen.values()), num_returns=len(seen), timeout=_SEEN)
            for address, answer in seen.items():
                if not self._ray.get(answer, timeout=_SEEN):
                    raise UserError(
                        f"output: expected a folder that all nodes see, got {self.folder}, which {address} does not see"
                    )
        except self._ray.exceptions.RayError as error:
            raise UserError(f"--launcher ray: a node does not answer: {one_line(error)}") from error
        finally:
            mark.unlink()

    @property
    def capacity(self) -> int:
        return 1_000_000 if self._jobs is None else self._jobs - len(self._packs)

    def submit(self, packs: Sequence[Pack]) -> None:
        for pack in packs:
            task = self._task.options(num_gpus=pack.resources.gpus or 0, num_cpus=pack.resources.cpus or 1)
            self._packs[task.remote(msgspec.to_builtins(self.assignment(pack)))] = pack

    def wait(self, seconds: float) -> list[Ended]:
        ready, _ = self._ray.wait(list(self._packs), num_returns=1, timeout=seconds) if self._packs else ([], [])
        return [Ended(self._packs.pop(task), self._death(task)) for task in ready]

    def _death(self, task: Any) -> str:
        """Return how the process of an ended task died, "" if it did not."""
        try:
            self._ray.get(task)
        except self._ray.exceptions.LocalRayletDiedError as error:
            raise UserError(
                "--launcher ray: Ray on this machine has died; the same command goes on from here"
            ) from error
        except self._ray.exceptions.RayTaskError as error:
            return one_line(error.cause) if error.cause is not None else one_line(error)
        except self._ray.exceptions.RayError as error:
            return f"its process died: {type(error).__name__}"
        return ""

    def close(self) -> str:
        for task in self._packs:
            self._ray.cancel(task, force=False)
        if self._packs:
            self._ray.wait(list(self._packs), num_returns=len(self._packs), timeout=_SEEN)
        return ""


def _fits(need: Resources, has: Mapping[str, float]) -> bool:
    return (need.gpus or 0) <= has.get("GPU", 0) and (need.cpus or 0) <= has.get("CPU", 0)

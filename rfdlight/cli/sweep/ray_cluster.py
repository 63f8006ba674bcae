"""The connection to a Ray cluster, which is made while torch is imported; this module imports neither of them."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from rfdlight.core.extras import imported
from rfdlight.errors import UserError, one_line

_HERE = "rfdlight.cli.sweep.running"
"""Imported in this process."""

_THERE = "rfdlight.cli.sweep.worker"
"""Imported in the processes that will run cells."""


@contextmanager
def connected(jobs: int | None, cells: int) -> Iterator[Any]:
    """Connect to the cluster at RAY_ADDRESS, or start Ray on this machine; the value is the module `ray`.

    The processes that will run cells import what they need from now on, while the caller checks the cells.

    Args:
        jobs: How many processes will run at the same time at most.
        cells: Number of cells to run.

    Raises:
        UserError: If Ray is not installed or the cluster does not answer.
    """
    ray: Any = imported("ray", "ray", "--launcher ray")
    # Ray's own processes end with the thread that has started them, so that the other import gets the new thread.
    importing = Thread(target=_load, args=(_HERE,), daemon=True)
    importing.start()
    try:
        _connect(ray)
        load = ray.remote(max_retries=0, num_cpus=1)(_load)
        for _ in range(min(cells, processes(ray, jobs))):
            load.remote(_THERE)
        importing.join()
        yield ray
    finally:
        ray.shutdown()


def _load(module: str) -> None:
    importlib.import_module(module)


def processes(ray: Any, jobs: int | None) -> int:
    """Return how many cells run at the same time."""
    resources = ray.cluster_resources()
    most = max(1, int(resources.get("GPU", 0) or resources.get("CPU", 1)))
    return most if jobs is None else min(jobs, most)


def _connect(ray: Any) -> None:
    # Tasks import the user's modules from the working folder.
    paths = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    try:
        ray.init(
            include_dashboard=None if "RAY_ADDRESS" in os.environ else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        address = os.environ.get("RAY_ADDRESS", "this machine")
        raise UserError(f"--launcher ray: cannot connect to {address}: {one_line(error)}") from error

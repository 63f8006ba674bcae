"""Sweeps whose cells are uploaded: finished cells written by hand, and a server of S3 on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hand import adversarial, facts, record, ten
from moto.server import ThreadedMotoServer
from written_runs import write_run, write_standard

from rfdlight.core.balls import Norm
from rfdlight.records import images
from rfdlight.records.runs import Run
from rfdlight.records.standard import Settings, Standard

NAMES = ("none-square", "noise-square", "noise-standard")
LINF: Norm = "linf"
SETTINGS = Settings(
    version="standard-1", norm=LINF, eps=0.2, budget=30, access="decision", stages=["bernoulli_decision", "rays"],
    level=0.0125, seed=0, victim="digits_small", defense="noise", data="digits", num_images=2,
)  # fmt: skip


def keep_images(run: Path, pixels: int = 4) -> None:
    """Write the pixels of one image as those that a run kept."""
    random = np.random.default_rng(0)
    images.save(run / images.FILE, {record(0).id: tuple(random.random((2, 1, pixels, pixels), dtype=np.float32))})


def standard_evaluation() -> Standard:
    first = Run.of([adversarial(0, 7), record(1)], facts(attack="bernoulli_decision", defense="noise", num_images=2))
    second = Run.of([record(1)], facts(attack="rays", defense="noise", seed=1000, num_images=1))
    return Standard(SETTINGS, (first, second))


def write_sweep(folder: Path) -> Path:
    """Write a sweep of three finished cells, one of them a standard evaluation, with what uploads leave out."""
    folder.mkdir()
    write_run(Run.of(ten(), facts()), folder / NAMES[0])
    write_run(Run.of([record(i) for i in range(10)], facts(defense="noise")), folder / NAMES[1])
    write_standard(standard_evaluation(), folder / NAMES[2])
    for run in (NAMES[0], f"{NAMES[2]}/1-bernoulli_decision"):
        keep_images(folder / run)
    for run in (NAMES[0], f"{NAMES[2]}/2-rays"):
        (folder / run / "journal").mkdir()
        (folder / run / "journal" / "0-0.jsonl").write_text("")
        (folder / run / "journal" / "lock").write_text("")
    (folder / NAMES[0] / "partial-host-1-summary.json").write_text("{")
    for name in NAMES:
        (folder / f"{name}.yaml").write_text(f"# the settings of {name}\n")
        for file in ("output.txt", "words.txt"):  # before and after a summary in the order of names
            (folder / name / file).write_text(file)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a cell that is uploaded, by its name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "journal" and not path.name.startswith("partial-")
    }


@contextmanager
def s3_server() -> Iterator[ThreadedMotoServer]:
    """Start a server of S3 on this machine with the bucket "bucket", and set the environment to it."""
    import fsspec

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # of other servers
        fsspec.filesystem("s3").makedirs("bucket", exist_ok=True)  # the servers of a process have the same buckets
        try:
            yield server
        finally:
            server.stop()
            fsspec.get_filesystem_class("s3").clear_instance_cache()

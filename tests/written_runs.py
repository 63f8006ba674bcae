"""Run directories written by hand."""

import json
from pathlib import Path

import msgspec
import pytest
from hand import UNDECIDED, adversarial, facts, record

from rfdlight.records.schema import SCHEMA, seal


def write_standard(standard, folder: Path, finished=True) -> Path:
    """Write the folder of a standard evaluation."""
    folder.mkdir(parents=True)
    content = {"settings": msgspec.to_builtins(standard.settings)} | ({"summary": {}} if finished else {})
    (folder / "standard.json").write_text(json.dumps(content))
    for number, run in enumerate(standard.stages, 1):
        write_run(run, folder / f"{number}-{run.facts.attack}")
    return folder


def write_run(run, folder: Path) -> None:
    """Write the directory of a run, with the digests www... of its weights and iii... of its images."""
    folder.mkdir()
    (folder / "records.jsonl").write_bytes(b"".join(seal(each) + b"\n" for each in run.records))
    (folder / "summary.json").write_bytes(run.summary_json())
    (folder / "config.yaml").write_text("{}")
    digests = {"schema": SCHEMA, "weights": "w" * 64, "images": "i" * 64}
    (folder / "fingerprint.json").write_text(json.dumps(digests))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a run directory below the current folder; return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def write_run(name, records, selection="balanced", **changes):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        if changes.get("deterministic"):
            records = [msgspec.structs.replace(each, clean_evaluations=1) for each in records]
        (folder / "config.yaml").write_text("seed_everything: 0\n")
        (folder / "records.jsonl").write_bytes(b"".join(seal(each) + b"\n" for each in records))
        # The numbers of the stored summary are wrong on purpose: the report computes its own.
        run = facts(**{"name": name, "num_images": len(records), "selection": selection, **changes})
        stale = {"schema": SCHEMA, "run": run, "mean_logits": "stale"}
        (folder / "summary.json").write_bytes(msgspec.json.encode(stale))
        return name

    return write_run


@pytest.fixture
def four(write):
    """Two defenses under two attacks on four images; what stands at 30 queries:

    |          | square     | rays    | both |
    | none     | 3          | 0, 1, 2 | -    |
    | noise    | 0, (1), 3  | 1, 2, 3 | (1), 3 |   in brackets: undecided, robust by sign
    """
    return [
        write("noise-square", [record(0), record(1, **UNDECIDED), adversarial(2, 25), record(3)], defense="noise"),
        write("none-square", [adversarial(0, 1), adversarial(1, 8), adversarial(2, 20), record(3)], deterministic=True),
        write("none-rays", [record(0), record(1), record(2), adversarial(3, 5)], attack="rays", deterministic=True),
        write("noise-rays", [adversarial(0, 30), record(1), record(2), record(3)], attack="rays", defense="noise"),
    ]


@pytest.fixture
def two(write):
    bare = write("bare", [adversarial(0, 1, l2=3.0), adversarial(1, 8, l2=4.0)], deterministic=True)
    noise = write(
        "noise",
        [
            record(0, **UNDECIDED, candidates=1, voted_candidates=1),
            adversarial(1, 25, first_9_vote_success=None),
        ],
        budget=60,
        defense="feature_noise a|b",
    )
    return [bare, noise]

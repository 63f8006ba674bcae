"""YAML file of a calibrated defense for `rfdlight test --defense`, which ignores its measured cost and evidence."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from rfdlight._io import expanded, write_file
from rfdlight.analysis.calibration import Target
from rfdlight.analysis.clean_cost import CleanCost, CleanCostMeter
from rfdlight.data.sources import ImageSource
from rfdlight.errors import expect
from rfdlight.victims.card import VictimCard
from rfdlight.victims.digest import weights_digest
from rfdlight.victims.weight_files import read_checkpoint


def plan(output: str, part: str = "") -> Path:
    """Return the path of a file, without writing it; `part` is appended to the name if there are several files."""
    path = Path(output)
    expect(path.suffix in (".yaml", ".yml"), "--output", "a file that ends in .yaml", f"'{output}'")
    path = path.with_stem(f"{path.stem}-{part}") if part else path
    expect(not path.exists(), "--output", "a new file", f"{path}, which exists", "give another name, or move the file")
    expect(path.parent.is_dir(), "--output", "a file in an existing folder", f"'{output}'")
    return path


def conditions(
    spec: str, card: VictimCard | None, checkpoint: str | None, data: str, meter: CleanCostMeter, target: Target
) -> dict[str, Any]:
    """Return the victim, as named by `spec`, weights, images and settings of a calibration."""
    if card is not None:
        weights = {"weights_sha256": card.sha256}
    elif checkpoint is not None:
        weights = {"weights_sha256": read_checkpoint(expanded(checkpoint))[1]}
    else:
        weights = {"loaded_weights_sha256": weights_digest(meter.victim, attributes=False)}
    return {
        "victim": spec,
        **weights,
        "data": data,
        **image_facts(meter.images),
        "clean_accuracy": meter.clean_accuracy,
        "target_drop": target.drop,
        "tolerance": target.tolerance,
        "seed": meter.seed,
        "rfdlight": version("rfdlight"),
    }


def image_facts(images: ImageSource) -> dict[str, Any]:
    """Return the number of images and a digest of their ids."""
    digest = hashlib.sha256("\n".join(sorted(images.ids)).encode()).hexdigest()
    return {"images": len(images), "image_ids_sha256": digest}


def cost_facts(cost: CleanCost) -> dict[str, Any]:
    """Return the measured cost of the defense in the file."""
    return {
        "drop": cost.drop,
        "interval_over_draws": list(cost.over_draws),
        "interval_over_images": list(cost.over_images),
        "draws": cost.draws,
    }


def write(path: Path, defense: dict[str, Any], **facts: dict[str, Any]) -> None:
    """Write a defense and the mappings `calibration` and `recommendation`."""
    write_file(path, yaml.safe_dump({**defense, **facts}, sort_keys=False))

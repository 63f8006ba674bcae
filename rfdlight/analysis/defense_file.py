"""The YAML file of a calibrated defense, which `rfdlight test --defense` takes as it is.

It is what the command line takes for a defense, a `class_path` with its `init_args`. Beside them stand mappings for the
reader, which the command line passes over: `calibration`, what was measured and on what, and in the file of
`rfdlight recommend` also `recommendation`, why this defense.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from rfdlight._io import expanded
from rfdlight.analysis.calibration import Target
from rfdlight.analysis.clean_cost import CleanCost, CleanCostMeter
from rfdlight.data.sources import ImageSource
from rfdlight.errors import UserError
from rfdlight.victims.card import VictimCard
from rfdlight.victims.digest import weights_digest
from rfdlight.victims.weight_files import read_checkpoint


def plan(output: str, part: str = "") -> Path:
    """Decide where a file will go, without writing it.

    Args:
        output: What the user asked for.
        part: Added to the name where there are several files.

    Raises:
        UserError: If it is no .yaml, its folder does not exist, or something is there already.
    """
    path = Path(output)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output must end in .yaml, got '{output}'")
    path = path.with_stem(f"{path.stem}-{part}") if part else path
    if path.exists():
        raise UserError(f"{path} is there already; give --output another name, or move it")
    if not path.parent.is_dir():
        raise UserError(f"the folder of --output {output} does not exist")
    return path


def conditions(
    spec: str,
    card: VictimCard | None,
    data: str,
    meter: CleanCostMeter,
    target: Target,
    checkpoint: str | None = None,
) -> dict[str, Any]:
    """Return under what a defense was calibrated, so that the file says of which victim and images it is true.

    Args:
        spec: What the user calls the victim.
        card: Its card, if it has one.
        data: Name of the data.
        meter: Holds the victim and the images.
        target: What was asked for.
        checkpoint: The file of its weights, if it has no card and was given one.

    Raises:
        UserError: If that file is no longer there.
    """
    return {
        "victim": spec,
        **_weights(card, checkpoint, meter.victim),
        "data": data,
        **image_facts(meter.images),
        "clean_accuracy": meter.clean_accuracy,
        "target_drop": target.drop,
        "tolerance": target.tolerance,
        "seed": meter.seed,
        "rfdlight": version("rfdlight"),
    }


def _weights(card: VictimCard | None, checkpoint: str | None, victim: nn.Module) -> dict[str, str]:
    """Return the sha256 of the file of the weights or, under another name, of the weights that came from no file."""
    if card is not None:
        return {"weights_sha256": card.sha256}
    if checkpoint is not None:
        return {"weights_sha256": read_checkpoint(expanded(checkpoint))[1]}
    return {"loaded_weights_sha256": weights_digest(victim, attributes=False)}


def image_facts(images: ImageSource) -> dict[str, Any]:
    """Return how many images were looked at, and a digest of their ids."""
    return {"images": len(images), "image_ids_sha256": _digest("\n".join(sorted(images.ids)).encode())}


def cost_facts(cost: CleanCost) -> dict[str, Any]:
    """Return what was measured at the sigma of the file."""
    return {
        "drop": cost.drop,
        "interval_over_draws": list(cost.over_draws),
        "interval_over_images": list(cost.over_images),
        "draws": cost.draws,
    }


def write(path: Path, defense: dict[str, Any], **facts: dict[str, Any]) -> None:
    """Write a defense, and for the reader the facts `calibration` and `recommendation`.

    Raises:
        UserError: If the file cannot be written.
    """
    try:
        path.write_text(yaml.safe_dump({**defense, **facts}, sort_keys=False))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

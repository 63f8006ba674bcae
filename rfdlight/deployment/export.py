"""`export`: a defended network as one file with its noise inside, checked in a fresh process, and its card."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rfdlight.data.conversion import unit_range
from rfdlight.defenses.aaa import AAA
from rfdlight.defenses.base import Defense
from rfdlight.defenses.policy import QueryPolicy
from rfdlight.deployment import formats
from rfdlight.deployment.card import SEEDING, CleanAccuracy, ExportCard, card_file, points_of, warnings_of
from rfdlight.deployment.check import Draws, check_file
from rfdlight.deployment.formats import SUFFIXES, Format
from rfdlight.errors import UserError, expect, unknown_name
from rfdlight.evaluation.evaluate import Data, Prepared, prepared
from rfdlight.victims.digest import weights_digest
from rfdlight.victims.resolve import LoadedVictim, load
from rfdlight.victims.schemes import file_digest

_CLOCKS = [0, 1, 2, 5, 10, 20, 50, 100, 1000, 10_000, 1_000_000]
"""Billed queries at which a schedule of noise is evaluated."""


def export(
    model: nn.Module | str,
    output: str | Path,
    data: Data | None = None,
    *,
    defense: Defense | Sequence[Defense] = (),
    format: Format = "onnx",
    num_images: int = 8,
    draws: int = 256,
    seed: int = 0,
) -> ExportCard:
    """Write a defended network into one file with its noise inside, check it in a fresh process, and write its card.

    The file takes pixels in [0, 1], float32 (rows, C, H, W) with any number of rows, and returns logits (rows,
    classes). The card lies beside it, as `OUTPUT.json`. The model is left exactly as it was.

    Args:
        model: As of `rfdlight.evaluate`. Defenses that are attached to it stay in force.
        output: File to write, .onnx or .pt2.
        data: Images and labels of the check, as of `rfdlight.evaluate`; without them random pixels, for a victim with a
            card, and no check of the accuracy.
        defense: Defenses that are attached for the call, in this order.
        format: "onnx" for ONNX Runtime, or "torch-export" for `torch.export.load`.
        num_images: Images of the check, >= 1.
        draws: Answers per image in the comparison of means and variances, >= 32.
        seed: Of the noise in the check and of random pixels.

    Raises:
        UserError: If an argument cannot be used, a package of the format is missing, or the defended network cannot be
            exported.
        ExportCheckError: If the check failed; the file and its card are written.
    """
    card = export_unraised(
        model, output, data, defense=defense, format=format, num_images=num_images, draws=draws, seed=seed
    )
    card.raise_if_failed()
    return card


def export_unraised(
    model: nn.Module | str | LoadedVictim,
    output: str | Path,
    data: Data | None,
    *,
    defense: Defense | Sequence[Defense],
    format: Format,
    num_images: int,
    draws: int,
    seed: int,
) -> ExportCard:
    """Do what `export` does, and return a card whose check may have failed."""
    if format not in SUFFIXES:
        raise unknown_name("format", format, SUFFIXES)
    file = Path(output).expanduser()
    expect(file.suffix == SUFFIXES[format], "output", f"a name that ends in {SUFFIXES[format]} for {format}", file)
    expect(num_images >= 1, "num_images", "at least 1", num_images)
    expect(draws >= 32, "draws", "at least 32", draws)
    formats.check_installed(format)
    if isinstance(model, str):
        model = load(model)
    with prepared(
        model, _random_pixels(model, num_images, seed) if data is None else data, defense, "cpu", None
    ) as made:
        _refuse(made.defenses, format)
        images, labels = _images(made, num_images)
        return _written(made, file, images, None if data is None else labels, format, draws, seed)


def _random_pixels(model: nn.Module | LoadedVictim, num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    card = model.card if isinstance(model, LoadedVictim) else None
    if card is None:
        raise UserError("data: expected images, got None; only a victim with a card names the shape of its images")
    pixels = torch.rand(num_images, *card.image_shape, generator=torch.Generator().manual_seed(seed))
    return pixels, torch.zeros(num_images, dtype=torch.int64)


def _images(made: Prepared, num_images: int) -> tuple[Tensor, Tensor]:
    """Return the first attacked images as float32 in [0, 1], and their labels."""
    source = made.data.attacked()
    positions = list(range(min(num_images, len(source))))
    return unit_range(source.read(positions)).contiguous(), source.labels[positions]


def _refuse(defenses: list[Defense], format: Format) -> None:
    """Refuse defenses that a file cannot hold."""
    for defense in defenses:
        name = type(defense).__name__
        if isinstance(defense, QueryPolicy):
            raise UserError(f"defense: expected one that acts in the network, got {name}, which needs all queries")
        if isinstance(defense, AAA) and format == "onnx":
            why = "AAA, whose optimisation amplifies the rounding of ONNX Runtime to other logits"
            raise UserError(f"defense: expected one that ONNX can hold, got {why}; use the format torch-export")
        schedule = getattr(defense, "schedule", None)
        if schedule is not None and _reads_clock(schedule):
            raise UserError(
                f"defense.schedule: expected one that needs no clock, got {name} with a schedule that changes with the "
                "billed queries, which a file does not count"
            )


def _reads_clock(schedule: object) -> bool:
    """Return whether the factors of a schedule depend on the billed queries, under the same random numbers."""
    assert callable(schedule)
    factors = []
    for clock in (torch.tensor(_CLOCKS), torch.zeros(len(_CLOCKS), dtype=torch.int64)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            factors.append(schedule(clock))
    return not all(isinstance(each, Tensor) for each in factors) or not torch.equal(*factors)


def _written(
    made: Prepared, file: Path, images: Tensor, labels: Tensor | None, format: Format, draws: int, seed: int
) -> ExportCard:
    """Write the file, check it, and write its card."""
    victim, network, card = made.victim, made.loaded.module, made.loaded.card
    with torch.no_grad(), torch.random.fork_rng(devices=[]), Draws() as drawn:
        classes = victim(images[:1].repeat(2, 1, 1, 1)).shape[1]  # the first pass also checks the insertion points
    program = formats.trace(victim, torch.cat([images] * 3)[:3])
    with tempfile.TemporaryDirectory() as folder:
        tapped, opset = file, None
        if format == "onnx":
            proto = formats.to_onnx(program)
            formats.write_onnx(proto, file)
            opset, tapped = formats.opset_of(proto), Path(folder, "tapped.onnx")
            formats.write_onnx(formats.with_noise(proto), tapped)
        else:
            formats.write_program(program, file)
        check = check_file(file, tapped, victim, images, labels, draws, seed)
    is_random = any(defense.is_random for defense in made.defenses)
    written = ExportCard(
        file=file.name,
        format=format,
        sha256=file_digest(file),
        bytes=file.stat().st_size,
        opset=opset,
        victim=made.loaded.description,
        weights_sha256=weights_digest(network),
        defense=[defense.description(network) for defense in made.defenses],
        points=points_of(made.defenses, network),
        input_shape=tuple(images.shape[1:]),
        classes=classes,
        clean_accuracy=None
        if card is None
        else CleanAccuracy(correct=card.clean_correct, total=card.clean_total, data=card.data),
        versions=formats.package_versions(format),
        seeding=SEEDING[format] if is_random else "the file has no noise",
        warnings=warnings_of(format, is_random, [noise.numel() // 2 for noise in drawn.drawn], check),
        passed=not any(finding.passed is False for finding in check),
        check=check,
    )
    written.write(card_file(file))
    return written

"""Card of an exported file: what is inside, how to serve it, and what its check found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from rfdlight._io import write_file
from rfdlight.deployment.check import ERROR, Finding
from rfdlight.deployment.formats import Format
from rfdlight.errors import UserError

SEEDING = {
    "onnx": (
        "In every process, after its fork and before its session is made: "
        "onnxruntime.set_seed(secrets.randbits(31)). "
        "Before every further session of the process: the same with a new number. "
        "The numbers must be random and secret, not 1, 2, 3: seeds that differ by the distance of two noise operators "
        "in the file draw the same noise at different layers."
    ),
    "torch-export": (
        "In every process, after its fork: torch.manual_seed(secrets.randbits(63)). Forked workers that do not seed "
        "share one stream of noise. The numbers must be secret."
    ),
}
"""How a server seeds the noise, by format."""

PERIOD = 2**31 - 2
"""Random numbers after which the generator of ONNX Runtime on the CPU repeats itself."""


class ExportCheckError(UserError):
    """An exported file failed its check; the file and its card are kept."""

    exit_status = 1


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """An insertion point of a defense; `sigma` is None for a defense without one."""

    defense: str
    layer: str
    side: str
    sigma: float | None


class CleanAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Right answers of the undefended victim on the test images of its training data, from the victim's card."""

    correct: int
    total: int
    data: str


class ExportCard(msgspec.Struct, frozen=True, kw_only=True):
    """Description of an exported file.

    Attributes:
        file, format, sha256, bytes: The file.
        opset: Version of the operators of ONNX; None for a program of torch.
        victim: One line on the network and its weights.
        weights_sha256: Digest of the loaded weights.
        defense: One line per defense, in the order in which they act.
        points: Insertion points of all defenses.
        input_shape: Channels, height, width; the pixels are float32 in [0, 1], the number of rows is free.
        classes: Number of logits per row.
        normalisation: Where pixels are normalised.
        clean_accuracy: None if it is unknown.
        versions: Of Python packages.
        seeding: How a server seeds the noise.
        warnings: What a server has to know.
        error_probability: That the check fails a correct file, at most about.
        passed: Whether no part of the check failed.
        check: Parts of the check.
    """

    file: str
    format: Format
    sha256: str
    bytes: int
    opset: int | None
    victim: str
    weights_sha256: str
    defense: list[str]
    points: list[Point]
    input_shape: tuple[int, ...]
    classes: int
    normalisation: str = "inside the file"
    clean_accuracy: CleanAccuracy | None
    versions: dict[str, str]
    seeding: str
    warnings: list[str]
    error_probability: float = ERROR
    passed: bool
    check: list[Finding]

    def write(self, file: Path) -> None:
        """Write the card as JSON."""
        write_file(file, msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    def raise_if_failed(self) -> None:
        """Raise an ExportCheckError with the parts of the check that failed, if there are any."""
        failed = [f"{finding.name}: {finding.text}" for finding in self.check if finding.passed is False]
        if failed:
            raise ExportCheckError(f"{self.file} failed its check, and is kept; {'; '.join(failed)}")


def card_file(file: str | Path) -> Path:
    """Return the path of the card of an exported file: its name and .json."""
    return Path(f"{file}.json")


def warnings_of(format: Format, is_random: bool, noise: list[int], check: list[Finding]) -> list[str]:
    """Return what a server has to know of a file.

    Args:
        format: Of the file.
        is_random: Whether a defense is.
        noise: Random numbers of a row at each noise point.
        check: Parts of the check.
    """
    if not is_random:
        return ["the file has no noise"]
    found = [f"{each.name}: {each.text}" for each in check if each.passed is None]
    if not any(each.name == "rows" for each in check):
        found.append("the noise changed no answer to the images of the check")
    if format == "onnx" and noise:
        rows = PERIOD // max(noise)
        found.append(
            "the generator of ONNX Runtime on the CPU is minstd_rand0, which is not secure: its noise repeats after at "
            f"most {rows:,} rows of a session, and there are 2^31 seeds to try"
        )
        found.append("the check ran on the CPU; other execution providers draw other noise")
    return found


def points_of(defenses: list[Any], model: Any) -> list[Point]:
    """Return the insertion points of defenses that are attached to a model."""
    points = []
    for defense in defenses:
        at = defense.insertion_points(model)
        sigmas = defense.sigmas(len(at)) if hasattr(defense, "sigmas") else [None] * len(at)
        points += [
            Point(defense=type(defense).__name__, layer=point.name, side=point.side, sigma=sigma)
            for point, sigma in zip(at, sigmas, strict=True)
        ]
    return points

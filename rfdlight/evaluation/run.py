"""Result of an evaluation, with its tables, its plot, its adversarial images and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor

from rfdlight._io import plain_text
from rfdlight.errors import UserError
from rfdlight.records import images, runs
from rfdlight.records.run_folders import load_any
from rfdlight.records.standard import Standard
from rfdlight.records.storage import is_url, local_copies
from rfdlight.reporting import plots
from rfdlight.reporting.report import Report
from rfdlight.reporting.report_files import write_report
from rfdlight.reporting.tables import run_html, run_table

_WIDTH = 80
"""Columns of the table of `print(run)`."""


@dataclass(frozen=True)
class Run(runs.Run):
    """Result of an evaluation: records, estimates, adversarial images, tables.

    `clean, robust = run` gives the two accuracies; `print(run)` shows the table of the command line.

    `queries`, `success` and `adversarial` are in the order of `ids`: that of the given data, or that of the image ids.
    """

    in_memory: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)  # (C, H, W), by image id
    order: tuple[str, ...] = field(default=(), repr=False, compare=False)
    device: torch.device = field(default=torch.device("cpu"), repr=False, compare=False)

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids in the order of `queries`, `success` and `adversarial`."""
        return self.order or tuple(record.id for record in self.records)

    @property
    def queries(self) -> Tensor:
        """Queries billed per image, (N,) int64, in order of `ids`; 0 for an image without a record."""
        billed = {record.id: record.billed for record in self.records}
        return torch.tensor([billed.get(name, 0) for name in self.ids], dtype=torch.int64)

    @property
    def success(self) -> Tensor:
        """Whether the attack succeeded on each image, (N,) bool, in order of `ids`; not on one without a record."""
        adversarial = {record.id for record in self.records if record.clean_correct and not record.is_robust}
        return torch.tensor([name in adversarial for name in self.ids], dtype=torch.bool)

    @cached_property
    def points(self) -> Mapping[str, Tensor]:
        """Final point of each image by its id, (C, H, W), over all attempts; read from the run directory if any."""
        if self.in_memory or self.folder is None or not (self.folder / images.FILE).exists():
            return self.in_memory
        _, final, ids = images.read_images(self.folder / images.FILE)
        return dict(zip(ids, torch.from_numpy(final), strict=True))

    @property
    def adversarial(self) -> Tensor:
        """Final points of the attack, (N, C, H, W) in [0, 1], the clean image where it was not attacked.

        Raises:
            UserError: If not every final point was kept.
        """
        missing = [name for name in self.ids if name not in self.points]
        if missing or not self.ids:
            raise UserError(
                f"adversarial: expected the final points of {len(self.ids)} images, got "
                f"{len(self.ids) - len(missing)}; evaluate with --model.keep_images {len(self.ids)}"
            )
        return torch.stack([self.points[name] for name in self.ids]).to(self.device)

    @property
    def is_consistent(self) -> bool:
        """Whether no consistency check fails."""
        return all(diagnostic.state != "fail" for diagnostic in self.diagnostics)

    def on(self, device: torch.device) -> Run:
        """Return the run with its adversarial images on a device."""
        return replace(self, device=device)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw robust accuracy against queries, with its 95 % interval, into given or new matplotlib axes."""
        curve = self.label, self.records, self.facts.budget
        if axes is None:
            return plots.draw_curves([curve]).axes[0]
        plots.draw_on(axes, [curve])
        return axes

    def __repr__(self) -> str:
        return f"<Run {self.label}: {len(self.records)} images, robust accuracy {self.robust_accuracy.value:.1%}>"

    def __str__(self) -> str:
        return plain_text(run_table(self.summary), _WIDTH)

    def _repr_html_(self) -> str:
        return run_html(self.summary)


def load_run(folder: str | Path) -> Run:
    """Read a run directory of `rfdlight test` or of `rfdlight.evaluate`.

    A URL of fsspec, such as `s3://bucket/sweep/none-square`, is read into memory, with the images that the run kept.

    Raises:
        UserError: If the folder holds no finished run, or a run of another schema version, or a URL cannot be read.
    """
    if not is_url(folder):
        return Run.load(folder)
    with local_copies([folder], pixels=True) as copies:
        run = Run.load(copies.paths[0])
        return replace(run, folder=None, in_memory=run.points)


def report(runs: Sequence[Run | Standard | str | Path], folder: str | Path) -> Report:
    """Write a report on runs, standard evaluations or their directories into a folder, which is made if it is missing.

    The files are tables of defenses by attacks as Markdown, CSV, HTML and LaTeX, and the curves.

    Raises:
        UserError: If there is no run, a directory holds none, or a file cannot be written.
    """
    return write_report([_as_run(run) for run in runs], Path(folder))


def _as_run(run: runs.Run | Standard | str | Path) -> runs.Run:
    if isinstance(run, Standard):
        return run.combined
    return run if isinstance(run, runs.Run) else load_any(Path(run))

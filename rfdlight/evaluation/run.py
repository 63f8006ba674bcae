"""Result of an evaluation, with its tables, its plot and its adversarial images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor

from rfdlight._io import plain_console
from rfdlight.errors import UserError
from rfdlight.records import images, runs
from rfdlight.reporting import plots
from rfdlight.reporting.tables import run_html, run_table

_WIDTH = 80
"""Columns of the table of `print(run)`."""


@dataclass(frozen=True)
class Run(runs.Run):
    """Result of an evaluation: records, estimates, adversarial images, tables.

    `clean, robust = run` gives the two accuracies; `print(run)` shows the table of the command line.

    Attributes:
        in_memory: Final point of each image by its id, (C, H, W) in [0, 1]; empty if a run directory holds them.
        order: Image ids in the order of the given data; `queries`, `success` and `adversarial` follow it.
        device: Device of `adversarial`.
    """

    in_memory: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    order: tuple[str, ...] = field(default=(), repr=False, compare=False)
    device: torch.device = field(default=torch.device("cpu"), repr=False, compare=False)

    @classmethod
    def from_base(cls, run: runs.Run, in_memory: Mapping[str, Tensor], order: tuple[str, ...] = ()) -> Run:
        """Return a run of records with its final points, unless its directory holds them."""
        base = {each.name: getattr(run, each.name) for each in fields(runs.Run)}
        return cls(**base, in_memory=in_memory, order=order)

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids in the order of `queries`, `success` and `adversarial`."""
        return self.order or super().ids

    @cached_property
    def points(self) -> Mapping[str, Tensor]:
        """Final point of each image by its id, (C, H, W): those of all attempts, from the run directory if any."""
        return self.in_memory or _kept(self.folder)

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
        target = plots.begin(6.0, 3.7).add_subplot() if axes is None else axes
        plots.draw_on(target, [(self.label, self.records, self.facts.budget)])
        return target

    def __str__(self) -> str:
        console = plain_console(file=io.StringIO())
        console.width = _WIDTH
        with console.capture() as captured:
            console.print(run_table(self.summary))
        return "\n".join(line.rstrip() for line in captured.get().splitlines()).rstrip()

    def _repr_html_(self) -> str:
        return run_html(self.summary)


def _kept(folder: Path | None) -> dict[str, Tensor]:
    """Return the final points that a run directory holds."""
    if folder is None or not (folder / images.FILE).exists():
        return {}
    _, final, ids = images.read_images(folder / images.FILE)
    return dict(zip(ids, torch.from_numpy(final), strict=True))


def load_run(folder: str | Path) -> Run:
    """Read a run directory of `rfdlight test` or of `rfdlight.evaluate`.

    Raises:
        UserError: If the folder holds no finished run, or a run of another schema version.
    """
    return Run.from_base(runs.load_run(folder), {})

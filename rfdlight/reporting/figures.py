"""Figures, begun and written in one way: as a PNG for the screen, and as a PDF for a paper."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rfdlight._io import write_file

Kind = Literal["png", "pdf"]
KINDS: tuple[Kind, ...] = ("png", "pdf")


def begin(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, of which pyplot, with its state, knows nothing."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def encoded(figure: Figure, kind: Kind) -> bytes:
    """Return a figure as the content of a file, the same at every time."""
    file = io.BytesIO()
    # Type 3 fonts, which matplotlib embeds by default, are refused where many papers are handed in.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        metadata = {"CreationDate": None} if kind == "pdf" else None
        figure.savefig(file, dpi=150, format=kind, metadata=metadata)
    return file.getvalue()


def save(figure: Figure, path: Path, kinds: Sequence[Kind] = KINDS) -> None:
    """Write a figure as files beside each other.

    Args:
        figure: What is written.
        path: Of the PNG; the name of another kind ends otherwise.
        kinds: Which files.

    Raises:
        UserError: If one cannot be written; it is then as it was.
    """
    for kind in kinds:
        write_file(path.with_suffix(f".{kind}"), encoded(figure, kind))

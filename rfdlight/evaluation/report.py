"""`report`: the files of `rfdlight report` from runs in memory or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rfdlight.evaluation.run import Run, load_run
from rfdlight.reporting.report import Report
from rfdlight.reporting.report_files import write_report


def report(runs: Sequence[Run | str | Path], folder: str | Path) -> Report:
    """Write a report on runs: tables of defenses by attacks as Markdown, CSV, HTML and LaTeX, and the curves.

    Args:
        runs: Runs, or run directories.
        folder: Folder of the files; it is made if it is missing.

    Returns:
        The report that the files show.

    Raises:
        UserError: If there is no run, a directory holds none, or a file cannot be written.
    """
    loaded = [run if isinstance(run, Run) else load_run(run) for run in runs]
    return write_report(loaded, Path(folder))

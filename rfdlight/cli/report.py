"""`rfdlight report`: the results of runs in one table, and the files of a report."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from rfdlight._io import plain_console
from rfdlight.errors import UserError, expect
from rfdlight.records.leaderboard import FOLDER, entry_of
from rfdlight.records.run_folders import opened_runs
from rfdlight.records.runs import Run
from rfdlight.records.standard import CombinedRun
from rfdlight.records.storage import is_url
from rfdlight.reporting.leaderboard import PAGE, write_leaderboard
from rfdlight.reporting.paired import Subject
from rfdlight.reporting.report import compile_report
from rfdlight.reporting.terminal import terminal


# The parser looks for this name in `rfdlight` too, where `report` is another function, which imports torch.
def report_runs(
    runs: list[str],
    output: str | None = None,
    budgets: int | list[int] | None = None,
    compare: Subject = "defenses",
    details: bool = False,
    as_declared: bool = False,
    leaderboard: str | None = None,
) -> None:
    """Show finished runs as one table of defenses by attacks, and compare them on the same images.

    Args:
        runs: Run directories, folders of standard evaluations, or folders of finished ones; also by URL, such as
            `s3://bucket/sweep` with the extra `s3`.
        output: Folder that gets `report.html`, `report.md`, `report.tex`, `report.csv`, `paired.csv`,
            `curves.png` and `curves.pdf`; by default nothing is written.
        budgets: Numbers of queries at which the table is read, for example `100` or `[100,1000]`, each at most the
            smallest budget of the runs; by default each attack's own budget.
        compare: Compare, on the same images, the defenses of each victim under each attack, or the attacks on each
            defense.
        details: Also show every number of each run, side by side; always shown for a single run.
        as_declared: Count runs under the paper's success criterion as the paper's code does: an image is adversarial
            if that criterion was met during the attack. By default the final evaluation decides in every run.
        leaderboard: Folder of a leaderboard of standard evaluations: the runs become entries of it, `entries/NAME.json`
            with the names of their folders, and `index.html` shows all entries. Without runs, it is written anew.

    Raises:
        UserError: If a folder is no run directory, a run is given twice, a budget is out of range, or the files
            cannot be written.
    """
    chosen = [budgets] if isinstance(budgets, int) else budgets
    if chosen is not None and (not chosen or min(chosen) < 1):
        raise UserError(f"budgets: expected numbers of queries of at least 1, got {budgets}")
    chosen = chosen and sorted(set(chosen))
    expect(bool(runs) or leaderboard is not None, "runs", "at least one run directory", "none")
    for name, folder in (("output", output), ("leaderboard", leaderboard)):
        expect(folder is None or not is_url(folder), name, "a folder on this machine", folder)
    if not runs:
        _enter([], Path(leaderboard or ""))
        return
    with opened_runs(runs, pixels=output is not None) as loaded:
        if leaderboard is not None:
            _enter(loaded, Path(leaderboard))
        if as_declared:
            loaded = [run.as_declared() if run.facts.criterion == "paper" else run for run in loaded]
        _print(loaded, output, chosen, compare, details or len(loaded) == 1)


def _enter(runs: list[Run], leaderboard: Path) -> None:
    """Add standard evaluations to a leaderboard."""
    count = write_leaderboard(leaderboard, [entry_of(_standard_folder(run)) for run in runs])
    plain_console().print(Text(f"{PAGE}, {FOLDER}: {leaderboard}, {count:,} in all"))


def _print(runs: list[Run], output: str | None, budgets: list[int] | None, compare: Subject, details: bool) -> None:
    """Print a report, and write its files into the folder `output`."""
    console = plain_console()
    if output is None:
        compiled = compile_report(runs, budgets, compare)
    else:
        from rfdlight.reporting.report_files import FILES, write_report  # matplotlib takes long to import

        compiled = write_report(runs, output, budgets, compare)
    for part in terminal(compiled, console.width, details):
        console.print(part)
    if output is not None:
        console.print(Text(f"{', '.join(FILES)}: {output}"))


def _standard_folder(run: Run) -> Path:
    is_standard = isinstance(run, CombinedRun) and run.folder is not None
    expect(is_standard, "leaderboard", "folders of standard evaluations", f"the run {run.label}")
    assert run.folder is not None
    return run.folder

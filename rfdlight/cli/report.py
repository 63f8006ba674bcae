"""`rfdlight report`: what a set of runs found, in one table and in the files that a paper needs."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from rich.text import Text

from rfdlight._io import plain_console, write_file
from rfdlight.errors import UserError
from rfdlight.records.runs import load_runs
from rfdlight.reporting.comma_separated import grid_csv, paired_csv
from rfdlight.reporting.figures import KINDS, encoded
from rfdlight.reporting.gallery import examples
from rfdlight.reporting.html import html_page
from rfdlight.reporting.latex import latex
from rfdlight.reporting.markdown import markdown
from rfdlight.reporting.paired import Subject
from rfdlight.reporting.plots import LONG, draw_curves, draw_panels
from rfdlight.reporting.report import Report, compile_report
from rfdlight.reporting.tables import run_title
from rfdlight.reporting.terminal import detail_tables, grid_tables, paired_table

_IN_ONE_PANEL = 4
"""Curves that can be told apart where they cross."""


def report(
    runs: list[str],
    output: str | None = None,
    budgets: int | list[int] | None = None,
    compare: Subject = "defenses",
    details: bool = False,
    as_declared: bool = False,
) -> None:
    """Put finished runs into one table of defenses by attacks, and test what differs on the same images.

    Args:
        runs: Run directories, or folders of finished runs.
        output: Folder that gets `report.html`, `report.md`, `report.tex`, `report.csv`, `paired.csv`,
            `curves.png` and `curves.pdf`; by default nothing is written.
        budgets: Numbers of queries at which the table is read, for example `100` or `[100,1000]`, each at most that of
            every run; by default each attack's own.
        compare: What is tested on the same images: the defenses of each victim under each attack, or the attacks on
            each defense.
        details: Also show every number of each run, side by side, and its ledger; a single run's are always shown.
        as_declared: Count runs under the paper's criterion as its code does: an image is broken where that criterion
            said so while the attack ran. By default the final draws decide in every run.

    Raises:
        UserError: If a folder is no run directory, a run is given twice, a budget is out of range, or the files
            cannot be written.
    """
    chosen = [budgets] if isinstance(budgets, int) else budgets
    if chosen is not None and (not chosen or min(chosen) < 1):
        raise UserError(f"budgets must be numbers of queries of at least 1, got {budgets}")
    loaded = load_runs(runs)
    if output is not None and (Path(output) / "records.jsonl").exists():
        raise UserError(f"{output} is a run directory; give --output another folder")
    if as_declared:
        loaded = [run.as_declared() if run.facts.criterion == "paper" else run for run in loaded]
    compiled = compile_report(loaded, chosen and sorted(set(chosen)), compare)
    files = {} if output is None else _files(compiled)
    console = plain_console()
    shown = [*grid_tables(compiled, console.width), *paired_table(compiled)]
    if details or len(loaded) == 1:
        shown += detail_tables(compiled, console.width)
    for part in [*shown, *(Text(note) for note in compiled.notes)]:
        console.print(part)
    if output is not None:
        _write(Path(output), files)
        console.print(Text(f"{', '.join(sorted(files))}: {output}"))


def _files(compiled: Report) -> dict[str, str | bytes]:
    """Return the content of each file, so that what is wrong with a run is found before one is written."""
    galleries = [examples(run) for run in compiled.runs]
    figure = _curves(compiled)
    curves = {f"curves.{kind}": encoded(figure, kind) for kind in KINDS}
    texts = {
        "report.html": html_page(compiled, curves["curves.png"], galleries),
        "report.md": markdown(compiled),
        "report.tex": latex(compiled),
        "report.csv": grid_csv(compiled),
        "paired.csv": paired_csv(compiled),
    }
    return {**curves, **texts}


def _curves(compiled: Report) -> Figure:
    """Return the picture: a few runs in one panel, more of them in one for each attack."""
    attacks = compiled.grid.settings
    if len(attacks) == 1 or len(compiled.runs) <= _IN_ONE_PANEL:
        lines = [(run.label, run.records, run.facts.budget) for run in compiled.runs]
        title = run_title(compiled.runs[0].facts) if len(compiled.runs) == 1 else ""
        return draw_curves(lines, log=max(budget for _, _, budget in lines) >= LONG, title=title)
    panels = [
        (
            attack.label,
            [(compiled.name(method), run.records, run.facts.budget) for method, run in attack.runs.items()],
        )
        for attack in attacks
    ]
    return draw_panels(panels)


def _write(folder: Path, files: dict[str, str | bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the report to {folder}: {error.strerror}") from error
    for name, content in files.items():
        write_file(folder / name, content)

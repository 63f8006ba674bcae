"""`rfdlight report`: several runs side by side."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rfdlight.errors import UserError
from rfdlight.results.plots import draw_curves
from rfdlight.results.records import Record, read_records
from rfdlight.results.summary import ROWS, RUN_FIELDS, Share, robust_at, summarize
from rfdlight.results.tables import attack_name, incomplete, interval, number, percent

FILES = ("config.yaml", "records.jsonl", "summary.json")
"""What a run directory holds."""

_LABEL_WIDTH, _RUN_WIDTH = 31, 24
"""Characters of a column with its padding: the longest label, and "100.0% (99.1 to 100.0)"."""


@dataclass(frozen=True)
class Run:
    """A finished run: its label in the report, its records by id, and its summary, computed from them anew."""

    label: str
    records: list[Record]
    summary: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """What the records do not hold."""
        return self.summary["run"]


def report(runs: list[str], output: str | None = None) -> None:
    """Compare finished runs: one column each on the terminal, and as files.

    Args:
        runs: Run directories.
        output: Folder that gets `report.md`, `report.csv` and `curves.png`; by default nothing is written.

    Raises:
        UserError: If a folder is no run directory, a run is given twice, or the files cannot be written.
    """
    if not runs:
        raise UserError("expected at least one run directory, got none")
    loaded = _load_all(runs)
    if output is not None and (Path(output) / "records.jsonl").exists():
        raise UserError(f"{output} is a run directory; give --output another folder")
    console = Console()
    rows, notes = _rows(loaded), _notes(loaded)
    fitting = max(1, (console.width - _LABEL_WIDTH) // _RUN_WIDTH)
    for first in range(0, len(loaded), fitting):
        console.print(_table(loaded, rows, slice(first, first + fitting)))
    for note in notes:
        console.print(Text(note))
    if output is not None:
        _write(Path(output), loaded, rows, notes)
        console.print(Text(f"report.md, report.csv and curves.png: {output}"))


def load(folder: Path, label: str) -> Run:
    """Read a run directory.

    Raises:
        UserError: If it is none.
    """
    if not folder.is_dir():
        raise UserError(f"expected a run directory, got {folder}, which is no folder{_nearest(folder)}")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is no run directory: it lacks {', '.join(missing)}")
    try:
        facts = json.loads((folder / "summary.json").read_text())["run"]
        lacking = RUN_FIELDS.keys() - facts.keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'summary.json'} is no summary of a run") from error
    if lacking:
        raise UserError(f"{folder / 'summary.json'} lacks run.{min(lacking)}")
    records = read_records(folder / "records.jsonl")
    return Run(label, records, summarize(records, facts))


def _nearest(folder: Path) -> str:
    siblings = [path.parent.name for path in folder.parent.glob("*/records.jsonl")]
    near = difflib.get_close_matches(folder.name, siblings, n=1)
    return f"; did you mean {folder.parent / near[0]}?" if near else ""


def _load_all(paths: list[str]) -> list[Run]:
    folders = [Path(path) for path in paths]
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise UserError(f"the run {folder} is given twice")
        seen.add(folder.resolve())
    names = [folder.resolve().name for folder in folders]
    unique = len(set(names)) == len(names)
    return [load(folder, name if unique else str(folder)) for folder, name in zip(folders, names, strict=True)]


def _common_budget(runs: list[Run]) -> int:
    return min(run.facts["budget"] for run in runs)


def _rows(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Return the lines of the comparison: a label, and a text per run."""
    rows: list[tuple[str, list[str]]] = []

    def add(label: str, cell: Callable[[Run], str]) -> None:
        rows.append((label, [cell(run) for run in runs]))

    def add_share(label: str, share: Callable[[Run], Share | None]) -> None:
        add(label, lambda run: _with_interval(share(run)))

    def add_fact(name: str) -> None:
        add(name, lambda run: str(run.facts[name] or "none"))

    def add_median(label: str, name: str) -> None:
        add(label, lambda run: number(run.summary["broken_images"][name]))

    add("attack", lambda run: attack_name(run.facts))
    if any(run.facts["options"] != "defaults" for run in runs):
        add_fact("options")
    for name in ("victim", "defense", "data"):
        add_fact(name)
    add("ball", lambda run: f"{run.facts['norm']} {run.facts['eps']:g}")
    add("queries per image", lambda run: f"{run.facts['budget']:,}")
    for name in ("judge", "accounting", "precision"):
        add_fact(name)
    if any(run.facts["eot"] > 1 for run in runs):
        add("evaluations per query", lambda run: str(run.facts["eot"]))
    add("images", lambda run: incomplete(run.summary) or f"{run.summary['counts']['images']:,}")
    add_share("mean logits: clean", lambda run: run.summary["mean_logits"]["clean"])
    add_share("mean logits: robust", lambda run: run.summary["mean_logits"]["robust"])
    add_share("  lower, undecided as broken", lambda run: run.summary["mean_logits"]["robust_lower"])
    if len({run.facts["budget"] for run in runs}) > 1:
        common = _common_budget(runs)
        add_share(f"  robust at {common:,} queries", lambda run: robust_at(run.records, common))
    add_share("  by the judge's calls", lambda run: run.summary["declared"])
    add_share("  by the first 9-vote screen", lambda run: run.summary["first_screen9"])
    add_share("single answer: clean", lambda run: run.summary["single_draw"]["clean"])
    add_share("single answer: robust", lambda run: run.summary["single_draw"]["robust"])
    add_share("attack success", lambda run: run.summary["attack_success"])
    add("undecided images", lambda run: f"{run.summary['counts']['undecided']:,}")
    add_median("median queries to break", "median_queries")
    add_median("median linf of the broken", "median_linf")
    add_median("median l2 of the broken", "median_l2")
    add("billed per image", lambda run: _per_image(run, "billed"))
    add("evaluated per image", lambda run: _per_image(run, "attack", "gradient", "observe"))
    add("judged per image", lambda run: _per_image(run, "judge"))
    add("judge rows per attack row", lambda run: number(run.summary["ledger"]["judge_ratio"], 2))
    return rows


def _per_image(run: Run, *kinds: str) -> str:
    images = run.summary["counts"]["images"]
    return number(sum(run.summary["ledger"][kind] for kind in kinds) / images if images else None)


def _with_interval(share: Share | None) -> str:
    text = percent(share)
    return text if text == "-" else f"{text} ({interval(share).replace('%', '')})"


def _notes(runs: list[Run]) -> list[str]:
    """Return what a reader must know before comparing."""
    notes = []
    first = runs[0]
    ids = {record["id"] for record in first.records}
    for run in runs[1:]:
        if run.facts["data"] != first.facts["data"]:
            notes.append(f"NOT COMPARABLE: the data of {run.label} and {first.label} differ.")
            continue
        other = {record["id"] for record in run.records}
        if other != ids:
            common = len(ids & other)
            notes.append(f"NOT COMPARABLE: {run.label} and {first.label} have only {common:,} images in common.")
    compared = ("norm", "eps", "targeted", "judge", "accounting", "eot", "precision")
    differing = [name for name in compared if len({run.facts[name] for run in runs}) > 1]
    if differing:
        notes.append(f"The runs differ in {', '.join(differing)}.")
    if len({run.facts["budget"] for run in runs}) > 1:
        notes.append(
            f"Budgets differ: compare at {_common_budget(runs):,} queries; an attack that plans with its budget may "
            "do better there when that is its budget."
        )
    if all(run.facts["attack"] != "random_noise" for run in runs):
        notes.append("No run of random_noise is among these: it says what a ball of this size breaks by itself.")
    notes.append("Brackets hold 95% intervals. Take gaps within one pair only: mean logits or single answers.")
    if not all(run.facts["deterministic"] for run in runs):
        notes.append("A run against a random victim can be repeated in distribution only.")
    return notes


def _table(runs: list[Run], rows: list[tuple[str, list[str]]], shown: slice) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for run in runs[shown]:
        table.add_column(Text(run.label), overflow="fold", min_width=_RUN_WIDTH - 2)
    for label, cells in rows:
        style = "bold" if label == "mean logits: robust" else ""
        table.add_row(label, *(Text(cell) for cell in cells[shown]), style=style)
    return table


def _write(folder: Path, runs: list[Run], rows: list[tuple[str, list[str]]], notes: list[str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(_markdown(runs, rows, notes))
        with (folder / "report.csv").open("w", newline="") as file:
            lines = [_line(run, _common_budget(runs)) for run in runs]
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
        curves = [(run.label, run.records, run.facts["budget"]) for run in runs]
        draw_curves(curves, folder / "curves.png", log=max(budget for _, _, budget in curves) >= 1000)
    except OSError as error:
        raise UserError(f"cannot write the report to {folder}: {error.strerror}") from error


def _markdown(runs: list[Run], rows: list[tuple[str, list[str]]], notes: list[str]) -> str:
    lines = [["", *(run.label for run in runs)], ["---"] * (len(runs) + 1)]
    lines += [[label.strip(), *cells] for label, cells in rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    table = "\n".join(f"| {' | '.join(line)} |" for line in escaped)
    remarks = "\n".join(f"- {note}" for note in notes)
    return f"# Runs side by side\n\n{table}\n\n{remarks}\n\n![robust accuracy against queries](curves.png)\n"


def _line(run: Run, common: int) -> dict[str, Any]:
    """Return a run's numbers, unrounded, one per column of the CSV file."""
    summary = run.summary
    line: dict[str, Any] = {"run": run.label}
    line |= {name: run.facts[name] for name in RUN_FIELDS if name not in ("name", "totals")}
    line |= summary["counts"]
    shares = {
        "clean": summary["mean_logits"]["clean"],
        "robust": summary["mean_logits"]["robust"],
        "robust_lower": summary["mean_logits"]["robust_lower"],
        "robust_at_common_budget": robust_at(run.records, common),
        "declared": summary["declared"],
        "first_screen9": summary["first_screen9"],
        "single_draw_clean": summary["single_draw"]["clean"],
        "single_draw_robust": summary["single_draw"]["robust"],
        "attack_success": summary["attack_success"],
    }
    for name, share in shares.items():
        known = share if share is not None and share["share"] is not None else {}
        line |= {name: known.get("share"), f"{name}_low": known.get("low"), f"{name}_high": known.get("high")}
    line["common_budget"] = common
    ledger = dict(summary["ledger"])
    rows = {f"{kind}_rows": ledger.pop(kind) for kind in ROWS}
    return line | summary["broken_images"] | rows | ledger

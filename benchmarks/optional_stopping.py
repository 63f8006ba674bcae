"""Draws what repeated votes do: an attack under the paper's criterion, beside the default one.

Usage: python benchmarks/optional_stopping.py PAPER_RUN DEFAULT_RUN PICTURE.svg

Both runs attack the same victim behind the same random defense. Of the paper's run, one curve shows the images
that its votes leave robust, the other those that fresh evaluations at the points where the votes stopped do not find
adversarial. The gap between them is the effect.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rfdlight.records.records import Record
from rfdlight.records.runs import Run, load_run
from rfdlight.records.summary import Outcome, outcomes
from rfdlight.reporting.plots import begin, save, steps, styled
from rfdlight.reporting.tables import with_interval


def declared(record: Record) -> list[Outcome]:
    """Return when the criterion called an image adversarial, whatever the final evaluations say."""
    return [] if record.success_query is None else [Outcome(record.success_query, True)]


@styled
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paper", type=Path)
    parser.add_argument("default", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    paper, default = load_run(options.paper, "paper"), load_run(options.default, "default")
    if {r.id for r in paper.records} != {r.id for r in default.records}:
        parser.error("the runs have different images")

    figure = begin(5.6, 4.0)
    axes = figure.add_subplot()
    curves = (
        (paper, declared, "#D55E00", "-", "paper's criterion: robust by its votes"),
        (paper, outcomes, "#D55E00", "--", "paper's criterion: robust by fresh evaluations"),
        (default, outcomes, "#0072B2", "-", "default criterion: robust by fresh evaluations"),
    )
    for run, found, colour, style, label in curves:
        queries, standing = steps(run.records, [found(r) for r in run.records], 1, run.facts.budget)
        axes.step(
            queries, standing / len(run.records), where="post", color=colour, linestyle=style, linewidth=2, label=label
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylim(-0.01, 1.01)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("queries billed per image")
    axes.set_ylabel("share of the images")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center")
    save(figure, options.picture, ["svg"])
    table = Table("", "paper's criterion", "defaults")
    for row in rows(paper, default):
        table.add_row(*row)
    Console().print(table)


def rows(paper: Run, default: Run) -> list[list[str]]:
    """Return what the criteria of both runs called adversarial, and what fresh evaluations say of it."""
    runs = (paper, default)
    called = [[r.verdict for r in run.records if r.success_query is not None] for run in runs]
    verdicts = ("adversarial", "undecided", "robust")
    ledgers = [run.summary.ledger for run in runs]
    return [
        ["robust by the criterion during the attack", *(with_interval(run.summary.declared) for run in runs)],
        ["robust by the final evaluation", *(with_interval(run.robust_accuracy) for run in runs)],
        ["images called adversarial during the attack", *(f"{len(found)}" for found in called)],
        [
            f"of these by the final evaluation: {', '.join(verdicts)}",
            *(", ".join(f"{found.count(verdict)}" for verdict in verdicts) for found in called),
        ],
        ["rows of the attack", *(f"{ledger['attack'] + ledger['success_check']:,}" for ledger in ledgers)],
        ["rows of the criterion", *(f"{ledger['criterion']:,}" for ledger in ledgers)],
    ]


if __name__ == "__main__":
    main()

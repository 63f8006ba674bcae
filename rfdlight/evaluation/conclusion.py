"""Conclusion of an evaluation: sanity checks, consistency checks, summary and its files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rfdlight import _io
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.evaluation.run import Run
from rfdlight.evaluation.sanity_checks import SanityChecks
from rfdlight.records.consistency_checks import audit
from rfdlight.records.summary import summarize
from rfdlight.reporting import figures, plots
from rfdlight.reporting.tables import run_title


def conclude(evaluation: Evaluation) -> Run:
    """Check a finished or stopped evaluation, summarize it, and write `summary.json` and `curves.png` to its folder."""
    past, folder = evaluation.writer.past, evaluation.writer.folder
    data = evaluation.subject.data
    planned = {*data.attacked().ids, *data.unreadable_images}
    foreign = sum(record["id"] not in planned for record in past.records)
    complete = len(past.records) - foreign + len(past.failed) == len(planned)
    facts = _facts(evaluation, complete) | {"foreign": foreign, "sanity_checks": _sanity_checks(evaluation, complete)}
    diagnostics = audit(past.records, facts)
    summary = summarize(past.records, facts) | {"consistency_checks": [asdict(found) for found in diagnostics]}
    if folder is not None:
        _io.write_file(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        if past.records:
            curve = plots.draw_curves([(folder.name, past.records, evaluation.config.budget)], title=run_title(facts))
            figures.save(curve, folder / "curves.png", ["png"])
    name = folder.name if folder else facts["attack"]
    return Run(name, folder or Path(), past.records, summary)


def _sanity_checks(evaluation: Evaluation, complete: bool) -> dict[str, Any]:
    """Run the sanity checks of a complete evaluation that wants them."""
    records = evaluation.writer.past.records
    if not (evaluation.config.sanity_checks and records and complete):
        return {}
    checks = SanityChecks(
        evaluation.subject,
        evaluation.engine,
        evaluation.device,
        evaluation.config,
        lambda: evaluation.processes.stopping,
    )
    return checks.run(evaluation.subject.data.attacked(), records)


def _facts(evaluation: Evaluation, complete: bool) -> dict[str, Any]:
    """Return the facts of the run as a whole, over all attempts."""
    subject, past, folder = evaluation.subject, evaluation.writer.past, evaluation.writer.folder
    return {
        "name": folder.name if folder else "",
        **subject.settings(evaluation.config, evaluation.rows),
        "deterministic": evaluation.engine.deterministic,
        "complete": complete,
        "failed": past.failed,
        "card": subject.clean_accuracy(),
        "classes": subject.class_names(),
        "card_data": subject.card.data if subject.card else None,
        "num_classes": subject.data.num_classes,
        "clean_accuracy_warning": evaluation.clean_warning,
        "random": evaluation.random,
        "forwarded": past.forwarded,
        "processes": evaluation.processes.size,
        "batch_size_used": past.batch_size,
        "totals": dict(past.totals),
        "wall_seconds": past.seconds,
        "attempts": past.attempts,
        "killed_attempts": past.killed,
        "damaged_lines": past.damaged,
        "in_progress": {"begun": past.in_progress[0], "robust": past.in_progress[1]},
    }

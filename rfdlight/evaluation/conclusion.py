"""Conclusion of an evaluation: sanity checks, consistency checks, summary and its files."""

from __future__ import annotations

from dataclasses import replace

from rfdlight import _io
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.evaluation.run import Run
from rfdlight.evaluation.sanity_checks import SanityChecks
from rfdlight.records.facts import CardAccuracy, RunFacts, SanityCheckResults
from rfdlight.reporting import plots
from rfdlight.reporting.tables import run_title


def conclude(evaluation: Evaluation, order: tuple[str, ...] = ()) -> Run:
    """Check a finished or stopped evaluation, summarize it, and write `summary.json` and `curves.png` to its folder.

    It runs in process 0. `order` has the image ids in the order of the given data, by default that of the ids.
    """
    past, folder = evaluation.writer.past, evaluation.writer.folder
    data = evaluation.subject.data
    planned = {*data.attacked().ids, *data.unreadable_images}
    foreign = sum(record.id not in planned for record in past.records)
    complete = len(past.records) - foreign + len(past.facts["failed"]) == len(planned)
    checks = _sanity_checks(evaluation) if complete else SanityCheckResults()
    facts = _facts(evaluation, complete, foreign, checks)
    run = replace(Run.of(past.records, facts, folder), in_memory=evaluation.writer.points, order=order)
    if folder is not None:
        _io.write_file(folder / "summary.json", run.summary_json())
        if run.records:
            curve = plots.draw_curves([(folder.name, past.records, facts.budget)], title=run_title(facts))
            plots.save(curve, folder / "curves.png", ["png"])
    return run


def _facts(evaluation: Evaluation, complete: bool, foreign: int, checks: SanityCheckResults) -> RunFacts:
    """Return the facts of the run as a whole, over all attempts and with the rows of its sanity checks."""
    subject, folder = evaluation.subject, evaluation.writer.folder
    settings = subject.settings(evaluation.config, evaluation.passes)
    defense = "" if settings["defense"] == "none" else f", {settings['defense']}"
    card, data = subject.card, subject.data
    known = CardAccuracy(correct=card.clean_correct, total=card.clean_total) if card else None
    classes = list(map(str, data.classes or ()))
    return RunFacts(
        name=folder.name if folder else f"{subject.attack_name}{defense}",
        **settings,
        **evaluation.writer.past.facts,
        deterministic=evaluation.engine.deterministic,
        complete=complete,
        card=known if card and card.data == data.name else None,
        classes=classes if len(classes) == data.num_classes else None,
        card_data=card.data if card else None,
        num_classes=data.num_classes,
        clean_accuracy_warning=evaluation.clean_warning,
        random=evaluation.random,
        processes=evaluation.processes.size,
        foreign=foreign,
        sanity_checks=checks,
    )


def _sanity_checks(evaluation: Evaluation) -> SanityCheckResults:
    """Run the sanity checks of a complete evaluation that wants them, and write down their rows."""
    records = evaluation.writer.past.records
    if not (evaluation.config.sanity_checks and records):
        return SanityCheckResults()
    checks = SanityChecks(
        evaluation.subject,
        evaluation.engine,
        evaluation.device,
        evaluation.config,
        stop=lambda: evaluation.processes.stopping,
    )
    with evaluation.writer.sanity_checks(evaluation.subject.victim):
        return checks.run(evaluation.subject.data.attacked(), records)

"""Conclusion of an evaluation: sanity checks, consistency checks, summary and its files."""

from __future__ import annotations

from rfdlight import _io
from rfdlight.evaluation.evaluation import Evaluation
from rfdlight.evaluation.run import Run
from rfdlight.evaluation.sanity_checks import SanityChecks
from rfdlight.records import runs
from rfdlight.records.facts import RunFacts, SanityCheckResults
from rfdlight.reporting import plots
from rfdlight.reporting.tables import run_title


def conclude(evaluation: Evaluation, order: tuple[str, ...] = ()) -> Run:
    """Check a finished or stopped evaluation, summarize it, and write `summary.json` and `curves.png` to its folder.

    Args:
        evaluation: The evaluation, in process 0.
        order: Image ids in the order in which the run gives its images; by default that of the ids.
    """
    past, folder = evaluation.writer.past, evaluation.writer.folder
    data = evaluation.subject.data
    planned = {*data.attacked().ids, *data.unreadable_images}
    foreign = sum(record.id not in planned for record in past.records)
    complete = len(past.records) - foreign + len(past.facts["failed"]) == len(planned)
    facts = _facts(evaluation, complete, foreign)
    run = Run.from_base(runs.Run.of(past.records, facts, folder), getattr(evaluation.writer, "points", {}), order)
    if folder is not None:
        _io.write_file(folder / "summary.json", run.summary_json())
        if run.records:
            curve = plots.draw_curves([(folder.name, past.records, facts.budget)], title=run_title(facts))
            plots.save(curve, folder / "curves.png", ["png"])
    return run


def _facts(evaluation: Evaluation, complete: bool, foreign: int) -> RunFacts:
    """Return the facts of the run as a whole, over all attempts."""
    subject, folder = evaluation.subject, evaluation.writer.folder
    settings = subject.settings(evaluation.config, evaluation.rows)
    described = (
        subject.attack_name if settings["defense"] == "none" else f"{subject.attack_name}, {settings['defense']}"
    )
    return RunFacts(
        name=folder.name if folder else described,
        **settings,
        **evaluation.writer.past.facts,
        deterministic=evaluation.engine.deterministic,
        complete=complete,
        card=subject.clean_accuracy(),
        classes=subject.class_names(),
        card_data=subject.card.data if subject.card else None,
        num_classes=subject.data.num_classes,
        clean_accuracy_warning=evaluation.clean_warning,
        random=evaluation.random,
        processes=evaluation.processes.size,
        foreign=foreign,
        sanity_checks=_sanity_checks(evaluation, complete),
    )


def _sanity_checks(evaluation: Evaluation, complete: bool) -> SanityCheckResults:
    """Run the sanity checks of a complete evaluation that wants them."""
    records = evaluation.writer.past.records
    if not (evaluation.config.sanity_checks and records and complete):
        return SanityCheckResults()
    checks = SanityChecks(
        evaluation.subject,
        evaluation.engine,
        evaluation.device,
        evaluation.config,
        stop=lambda: evaluation.processes.stopping,
    )
    return checks.run(evaluation.subject.data.attacked(), records)

"""The reason for which an evaluation ends with exit status 1."""

from __future__ import annotations

from rfdlight.evaluation.attack_evaluation import AttackEvaluation

STOPPED = "stopped before all images were done; the records so far are kept"
"""The reason of an evaluation that was stopped, and of no other."""


def exit_reason(model: AttackEvaluation) -> str | None:
    """Return why an evaluation is incomplete or untrustworthy; None if it is neither or another process reports it."""
    if model.processes.lost:
        return "process 0 of the run is gone; the records so far are kept"
    if not model.processes.leads:
        return None
    run = model.run
    if run is None or not run.facts.complete:
        return STOPPED
    if run.facts.failed:
        planned = run.facts.num_images
        return f"{len(run.facts.failed)} of {planned} images failed and are in no number; summary.json says why"
    return (
        None if run.is_consistent else "the run contradicts itself, see its audit; none of its numbers can be trusted"
    )

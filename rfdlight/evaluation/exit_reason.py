"""What makes an evaluation that has ended less than what was asked for."""

from __future__ import annotations

from rfdlight.evaluation.attack_evaluation import AttackEvaluation

STOPPED = "stopped before all images were done; the records so far are kept"
"""What is said of an evaluation that was told to stop, and of no other."""


def exit_reason(model: AttackEvaluation) -> str | None:
    """Return what is wrong with an evaluation, if this is the process that says it, or None."""
    if model.processes.lost:
        return "process 0 of the run is gone; the records so far are kept"
    if not model.processes.leads:
        return None
    if not model.complete:
        return STOPPED
    if model.failed:
        asked = model.data.num_images
        return f"{len(model.failed)} of {asked} images failed and are in no number; summary.json says why"
    return None if model.sound else "the run contradicts itself, see its audit; none of its numbers can be trusted"

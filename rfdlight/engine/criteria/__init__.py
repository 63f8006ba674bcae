"""Success criteria: rules that decide when an image counts as adversarial."""

from rfdlight.core.registry import component
from rfdlight.engine.criteria.base import Conclusion, Queries, SuccessCriterion
from rfdlight.engine.evaluations import ADVERSARIAL_LEVEL, EvaluationState, MeanMarginTest
from rfdlight.errors import UserError

__all__ = ["Conclusion", "EvaluationState", "MeanMarginTest", "Queries", "SuccessCriterion", "criterion_named"]


def criterion_named(name: str, final_evaluations: int = 1500, level: float = ADVERSARIAL_LEVEL) -> SuccessCriterion:
    """Return a success criterion by its short name or import path; raise a UserError if there is none."""
    criterion = component("criterion", name)
    if not (isinstance(criterion, type) and issubclass(criterion, SuccessCriterion)):
        raise UserError(f"model.criterion: expected a SuccessCriterion, got '{name}'")
    return criterion(final_evaluations).at_level(level)

"""Success criteria: rules that decide when an image counts as adversarial."""

from pkgutil import resolve_name

from rfdlight.core.registry import resolve
from rfdlight.core.user_code import check_component
from rfdlight.engine.criteria.base import Conclusion, Queries, SuccessCriterion
from rfdlight.errors import UserError

__all__ = ["Conclusion", "Queries", "SuccessCriterion", "criterion_named"]


def criterion_named(name: str, final_evaluations: int = 2000) -> SuccessCriterion:
    """Return a success criterion by its short name or import path.

    Raises:
        UserError: If the name is unknown, or the import path is not a `SuccessCriterion`.
    """
    path = resolve("criterion", name)
    check_component("criterion", path)
    try:
        criterion = resolve_name(path)
    except (ImportError, AttributeError, ValueError):
        criterion = None
    if not (isinstance(criterion, type) and issubclass(criterion, SuccessCriterion)):
        raise UserError(f"model.criterion: expected a SuccessCriterion, got '{name}'")
    return criterion(final_evaluations)

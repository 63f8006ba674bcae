"""Query engine between an attack and a victim: oracle, query ledger, pool and success criterion."""

from rfdlight.engine.criterion import SuccessCriterion
from rfdlight.engine.engine import Engine
from rfdlight.engine.oracle import Oracle

__all__ = ["Engine", "Oracle", "SuccessCriterion"]

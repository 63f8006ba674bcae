"""Query engine between an attack and a victim: oracle, query ledger, pool and success criterion."""

from rfdlight.engine.config import EngineConfig, RunObserver
from rfdlight.engine.criteria import SuccessCriterion, criterion_named
from rfdlight.engine.engine import Engine
from rfdlight.engine.oracle import Oracle, OracleConfig

__all__ = ["Engine", "EngineConfig", "Oracle", "OracleConfig", "RunObserver", "SuccessCriterion", "criterion_named"]

"""What stands between an attack and a victim: the oracle, the ledger, the pool and the judge."""

from rfdlight.engine.engine import Engine
from rfdlight.engine.judge import Judge
from rfdlight.engine.oracle import Oracle

__all__ = ["Engine", "Judge", "Oracle"]

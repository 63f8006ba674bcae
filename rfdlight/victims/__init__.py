"""The networks under attack: how they are built, stored, described and checked."""

from rfdlight.victims.card import VictimCard
from rfdlight.victims.victim import Victim

__all__ = ["Victim", "VictimCard"]

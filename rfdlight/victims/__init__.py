"""The networks under attack: how they are built, stored, described and checked."""

from rfdlight.victims.arrays import ArrayVictim, wrap
from rfdlight.victims.card import VictimCard
from rfdlight.victims.http import HTTPVictim
from rfdlight.victims.onnx_file import ONNXVictim
from rfdlight.victims.victim import Victim

__all__ = ["ArrayVictim", "HTTPVictim", "ONNXVictim", "Victim", "VictimCard", "wrap"]

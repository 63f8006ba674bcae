"""Query-based attacks: each asks one point per image and tick, and is told the answer."""

from rfdlight.attacks.base import Attack
from rfdlight.attacks.random_noise import RandomNoise
from rfdlight.attacks.rays import RayS
from rfdlight.attacks.square import Square

__all__ = ["Attack", "RandomNoise", "RayS", "Square"]

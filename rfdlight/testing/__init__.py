"""Checks that every attack and every defense has to pass, for attacks and defenses of third parties too.

Each raises an AssertionError with one line on the broken promise. They run on a small network in seconds.

Example:
    >>> from rfdlight.attacks import RandomNoise
    >>> from rfdlight.defenses import InputNoise
    >>> from rfdlight.testing import check_attack, check_defense
    >>> check_attack(RandomNoise(eps=0.1))
    >>> check_defense(InputNoise(sigma=0.1))
"""

from rfdlight.testing.attack_checks import check_attack
from rfdlight.testing.defense_checks import check_defense

__all__ = ["check_attack", "check_defense"]

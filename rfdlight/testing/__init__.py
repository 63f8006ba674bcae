"""Checks that every attack, defense and success criterion has to pass, for those of third parties too.

Each raises an AssertionError with one line on the broken promise. They run on small victims in seconds.

Example:
    >>> from rfdlight.attacks import RandomNoise
    >>> from rfdlight.defenses import InputNoise
    >>> from rfdlight.testing import check_attack, check_criterion, check_defense
    >>> check_attack(RandomNoise(eps=0.1), budget=20, num_images=3)
    >>> check_defense(InputNoise(sigma=0.1))
    >>> from rfdlight.engine.criteria.single import SingleCriterion
    >>> check_criterion(SingleCriterion)  # doctest: +SKIP
"""

from rfdlight.testing.attack_checks import check_attack
from rfdlight.testing.criterion_checks import check_criterion
from rfdlight.testing.defense_checks import check_defense

__all__ = ["check_attack", "check_criterion", "check_defense"]

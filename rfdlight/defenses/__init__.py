"""Defenses that change what a network computes, without training it again."""

from rfdlight.defenses.aaa import AAA
from rfdlight.defenses.base import Defense, undefended
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.input_noise import InputNoise
from rfdlight.defenses.logit_noise import LogitNoise
from rfdlight.defenses.noise import Noise

__all__ = ["AAA", "Defense", "FeatureNoise", "InputNoise", "LogitNoise", "Noise", "undefended"]

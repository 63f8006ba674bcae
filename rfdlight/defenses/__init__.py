"""Defenses that change what a network computes, without training it again."""

from rfdlight.defenses.base import Defense
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.input_noise import InputNoise
from rfdlight.defenses.noise import Noise

__all__ = ["Defense", "FeatureNoise", "InputNoise", "Noise"]

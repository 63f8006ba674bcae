"""Defenses that change the activations of a trained network."""

from rfdlight.core.activations import InsertionPoint
from rfdlight.defenses.aaa import AAA
from rfdlight.defenses.averaged_answers import AveragedAnswers
from rfdlight.defenses.base import Defense, undefended
from rfdlight.defenses.blacklight import Blacklight
from rfdlight.defenses.feature_noise import FeatureNoise
from rfdlight.defenses.input_noise import InputNoise
from rfdlight.defenses.logit_noise import LogitNoise
from rfdlight.defenses.noise import Noise
from rfdlight.defenses.policy import QueryPolicy

__all__ = [
    "AAA", "AveragedAnswers", "Blacklight", "Defense", "FeatureNoise", "InputNoise", "InsertionPoint", "LogitNoise",
    "Noise", "QueryPolicy", "undefended",
]  # fmt: skip

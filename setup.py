"""The packages, found automatically; the folders configs and checkpoints are installed below rfdlight."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["rfdlight", "rfdlight.*"]), "rfdlight.configs", "rfdlight.checkpoints"])

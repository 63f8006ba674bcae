"""The parser of `rfdlight fit` and `rfdlight test`: that of every command line, with what Lightning needs."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any, TypeVar

from jsonargparse import add_instantiator
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from rfdlight.cli.parser import Parser
from rfdlight.cli.values import BASES

ClassType = TypeVar("ClassType")


class TrainerParser(Parser, LightningArgumentParser):
    """A parser to which a LightningCLI can add the options of a trainer, a model and data."""


def _instantiate(class_type: type[ClassType], *args: Any, **arguments: Any) -> ClassType:
    try:
        return class_type(*args, **arguments)
    except Exception as error:
        Parser._latest = error
        raise


for _base in (*map(resolve_name, BASES.values()), Callback):
    add_instantiator(_instantiate, _base)

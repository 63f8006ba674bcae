"""`rfdlight test --attack standard`: the standard evaluation from a command line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from typing import Any, cast

from rfdlight._io import plain_console
from rfdlight.cli.command_line import split
from rfdlight.defenses.base import Defense, undefended
from rfdlight.errors import UserError, expect, shown
from rfdlight.evaluation.config import EvaluationConfig
from rfdlight.evaluation.standard import FILE, VERSION, standard
from rfdlight.records import run_directory
from rfdlight.records.standard import Access
from rfdlight.reporting.standard_table import standard_table
from rfdlight.victims.resolve import resolve_victim

_NAME = "standard"
_BALL = ("--attack.eps", "--attack.norm")
_OWN = ("--attack", "--attack.access", "--run", "--resume")
"""Options that the parser of an attack's evaluation does not see."""
_FREE = {"budget", "batch_size", "keep_images", "seed"}
"""Fields of `EvaluationConfig` that a standard evaluation has."""


def names_standard(args: list[str]) -> bool:
    """Return whether a command line is that of a standard evaluation, of any version."""
    return args[:1] == ["test"] and any(
        word.flag == "--attack" and (word.value or "").partition("-")[0] == _NAME for word in split(args[1:])
    )


def first_stage(args: list[str]) -> list[str]:
    """Return the command line of the first stage's attack, in which the options of the standard evaluation are checked.

    Raises:
        UserError: If the version is unknown, or an option of an attack is given that the standard evaluation fixes.
    """
    words = split(args[1:])
    for word in words:
        if word.flag == "--attack":
            expect(word.value in (_NAME, VERSION), word.flag, f"{VERSION}, the only version", shown(str(word.value)))
        elif word.flag.startswith("--attack."):
            fits = word.flag in (*_BALL, *_OWN)
            expect(fits, word.flag, "no options but attack.eps, attack.norm and attack.access", shown(str(word.value)))
    passed = (word.written() for word in words if word.flag not in _OWN)
    return ["test", "--attack=random_noise", *passed]


def run_standard(args: list[str], make: Callable[[list[str]], Any]) -> int:
    """Run a standard evaluation and print its table; `make` makes the components of a command line.

    Returns the exit status: 0, or 1 if images failed.
    """
    given = {word.flag: word.value for word in split(args[1:])}
    made = make(first_stage(args))
    model, data = made.model, made.datamodule
    expect(made.trainer.world_size == 1, "--trainer.devices", "1", made.trainer.world_size)
    _check_settings(model.config)
    resumed = given.get("--resume")
    folder = resumed or str(run_directory.plan(given.get("--run"), f"{VERSION}-{data.name}"))
    loaded = resolve_victim(model.victim_spec, model.checkpoint, data, model.config.batch_size)
    defenses = [callback for callback in made.trainer.callbacks if isinstance(callback, Defense)]
    with nullcontext() if model.defended else undefended():
        run = standard(
            loaded,
            data,
            eps=model.attack.eps,
            norm=model.attack.norm,
            access=cast(Access, given.get("--attack.access") or "both"),
            defense=defenses if model.defended else (),
            device=made.trainer.strategy.root_device,
            out=folder,
            resume=resumed is not None,
            **{name: getattr(model.config, name) for name in sorted(_FREE)},
        )
    console = plain_console()
    console.print(standard_table(run.settings, run.summary))
    console.print(f"stages and {FILE}: {shown(folder)}", soft_wrap=True)
    return 1 if run.summary.counts["failed"] else 0


def _check_settings(config: EvaluationConfig) -> None:
    """Refuse settings that a standard evaluation fixes."""
    for setting in fields(EvaluationConfig):
        value = getattr(config, setting.name)
        if setting.name not in _FREE and value != setting.default:
            raise UserError(f"model.{setting.name}: {VERSION} has {setting.default}, got {value}; leave it out")

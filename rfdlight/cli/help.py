"""Help of `rfdlight fit` and `rfdlight test`; the options of the Trainer are listed by `--trainer.help`."""

from __future__ import annotations

import argparse
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable
from pkgutil import resolve_name
from typing import Any

from docstring_parser import parse
from torch.optim import SGD

from rfdlight.core.registry import FLAGS, NAMES, names

TRAINER_HELP = "--trainer.help"

_EXAMPLES = {
    "test": (
        "rfdlight test --attack square --attack.eps 8/255 --data cifar10 --data.num_images 500",
        "rfdlight test --attack rays --defense feature_noise --defense.sigma 0.1",
        "rfdlight test --attack square --model.victim my_module.my_net --data folder --data.root pictures",
    ),
    "fit": (
        "rfdlight fit --data cifar10 --model.network resnet20 --trainer.max_epochs 30",
        "rfdlight fit --model.adversary pgd --model.adversary.eps 8/255 --trainer.max_epochs 10",
    ),
}

_SHOWN = {
    "attack": ("eps", "norm", "targeted"),
    "data": ("num_images", "selection", "size", "seed"),
    "defense": ("sigma", "layers", "at"),
    "adversary": ("eps", "steps"),
}
"""Options of components in the help, by kind; `--attack.help NAME` lists all options of an attack."""

_GENERAL = ("config", "run", "resume", "ckpt_path", "seed_everything", "print_config", "version", "help")
"""Options that belong to no component, in the order of the help."""

_HELP = {
    "config": "A YAML file of settings; several are read in order, and later ones override.",
    "print_config": "Print the resolved settings and exit.",
    "ckpt_path": "Resume the training from this checkpoint of the Trainer.",
    "help": "Print this help and exit.",
}
"""Help texts that are shorter than those of the library."""

_COLUMN = 28
"""Width of the column of options, in characters."""


def component_options(kind: str) -> dict[str, str]:
    """Return the options of all components of rfdlight of a kind, with their help.

    Example:
        >>> component_options("defense")["sigma"].partition(",")[0]
        'Standard deviation'
    """
    options: dict[str, str] = {}
    for path in NAMES[kind].values():
        for parent in resolve_name(path).__mro__:
            described = {found.arg_name: found.description or "" for found in parse(parent.__doc__ or "").params}
            for name, parameter in inspect.signature(parent.__init__).parameters.items():
                if name != "self" and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                    options[name] = options.get(name) or described.get(name, "")
    return options


def flags_of(actions: Iterable[argparse.Action]) -> list[str]:
    """Return the options of a parser, without dashes, and the options of its components."""
    flags = [flag[2:].rstrip("+") for action in actions for flag in action.option_strings if flag.startswith("--")]
    own = [flag for flag in flags if not flag.endswith("help")]
    of_components = [
        f"{flag}.{name}" for kind, flag in FLAGS.items() if flag in own for name in component_options(kind)
    ]
    optimizers = inspect.signature(SGD).parameters if "model.optimizer" in own else ()
    return [*own, *of_components, *(f"model.optimizer.{name}" for name in optimizers)]


def command_help(parser: Any) -> str | None:
    """Return the help of `rfdlight fit` or `rfdlight test`, None for the parser of another command or component."""
    command = parser.prog.rpartition(" ")[2]
    if command not in _EXAMPLES:
        return None
    width = shutil.get_terminal_size().columns - 2
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    actions.pop("model.attack", None)  # a link to --attack
    chosen = {kind: flag for kind, flag in FLAGS.items() if flag in actions}
    lines = [
        f"usage: rfdlight {command}{' --attack NAME' if 'attack' in chosen else ''} [options]",
        "",
        *textwrap.wrap(parser.description, width),
        "",
        "examples:",
        *(f"  {example}" for example in _EXAMPLES[command]),
    ]
    for kind, flag in chosen.items():
        lines += ["", f"{kind}; --{flag}.help NAME lists all options of one:", *_component(kind, flag, actions, width)]
    rest = [action for dest, action in actions.items() if dest.startswith("model.") and "help" not in dest]
    lines += ["", "victim and evaluation:" if command == "test" else "training:"]
    for action in rest:
        if action.dest not in chosen.values():
            lines += _entry(f"{action.option_strings[0]}", _sentence(action.help), action.default, width)
    lines += ["", "general:"]
    for dest in _GENERAL:
        if dest in actions:
            flags = ", ".join(actions[dest].option_strings)
            lines += _entry(flags, _HELP.get(dest) or _sentence(actions[dest].help), None, width)
    lines += _entry(TRAINER_HELP, "List the options of Lightning's Trainer, such as --trainer.devices.", None, width)
    return "\n".join(lines) + "\n"


def _component(kind: str, flag: str, actions: dict[str, argparse.Action], width: int) -> Iterable[str]:
    known = f"{', '.join(names(kind))}; an import path, or a YAML file of one."
    yield from _entry(f"--{flag} NAME", known, None, width)
    options = component_options(kind)
    for name in _SHOWN[kind]:
        yield from _entry(f"--{flag}.{name}", _sentence(options[name]), None, width)


def _sentence(text: str | None) -> str:
    """Return the first sentence of a help text."""
    return re.split(r"(?<=[.])\s", " ".join((text or "").split()), maxsplit=1)[0]


def _entry(flags: str, text: str, default: Any, width: int) -> list[str]:
    """Return an option and its help in two columns; the help of a long option begins on the next line."""
    if default is not None and not isinstance(default, dict) and default != argparse.SUPPRESS:
        text = f"{text.rstrip('.')} (default {str(default).lower() if isinstance(default, bool) else default})"
    head, indent = f"  {flags}", " " * _COLUMN
    if len(head) > _COLUMN - 2:
        return [head, *textwrap.wrap(text, max(20, width), initial_indent=indent, subsequent_indent=indent)]
    wrapped = textwrap.wrap(text, max(20, width), initial_indent=indent, subsequent_indent=indent) or [indent]
    return [f"{head:<{_COLUMN}}{wrapped[0][_COLUMN:]}", *wrapped[1:]]


class TrainerHelp(argparse.Action):
    """Print the help of the Trainer's options and exit."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        formatter = parser._get_formatter()
        for group in parser._action_groups:
            trainers = [action for action in group._group_actions if action.dest.startswith("trainer")]
            if trainers:
                formatter.start_section("options of Lightning's Trainer")
                formatter.add_arguments(trainers)
                formatter.end_section()
        print(formatter.format_help())  # noqa: T201  the output of the option
        parser.exit()

"""The help of commands and components: texts, examples, and the formatter that leaves out types and import paths."""

from __future__ import annotations

import argparse
from typing import Any, Literal, get_args, get_origin

from jsonargparse import DefaultHelpFormatter
from jsonargparse._actions import _ActionConfigLoad, _ActionHelpClassPath
from jsonargparse._link_arguments import ActionLink
from jsonargparse._typehints import typehint_from_action

from rfdlight.cli.values import is_mapping, parts
from rfdlight.core import registry

_NEEDED = {
    "analyze": "VICTIM",
    "calibrate": "VICTIM --defense NAME",
    "export": "VICTIM",
    "layers": "VICTIM",
    "recommend": "VICTIM",
    "reevaluate": "VICTIM --submission RUN --leaderboard DIR",
    "report": "[RUN ...]",
    "scales": "VICTIM",
    "sweep": "EXPERIMENT",
    "test": "--attack NAME",
}
"""Arguments that a command requires, by command."""

EXAMPLES = {
    "test": """examples:
  rfdlight test --attack standard --data.num_images 50
  rfdlight test --attack square --attack.eps 8/255 --data.num_images 50
  rfdlight test --attack rays --defense input_noise --defense.sigma 0.1
  rfdlight test --attack square --model.victim my_module.my_net \\
      --data folder --data.root pictures""",
    "fit": """examples:
  rfdlight fit --model.network resnet8 --trainer.max_epochs 5
  rfdlight fit --data cifar10 --model.adversary pgd --model.adversary.eps 8/255""",
}

TITLES = {
    "test": {"attack": "attack", "data": "data", "defense": "defense", "model": "victim and evaluation"},
    "fit": {"data": "data", "defense": "defense", "model": "training", "ckpt_path": "resuming"},
}
"""Titles of the groups of options, in order, by command and by the first part of the options."""

_TEXTS = {
    "attack": "Attack, or standard: the standard evaluation, several attacks in turn.",
    "help": "Print this help and exit.",
    "config": "YAML file of settings; several are read in order, and later ones override.",
    "print_config": "Print the resolved settings and exit.",
    "seed_everything": "Seed of the global random numbers, true for a random one; attack and data have their own.",
    "ckpt_path": "Checkpoint of the Trainer from which the training is resumed.",
    "model.optimizer": "Import path of an optimizer, by default SGD; its learning rate is the highest one.",
}
"""Texts that replace those of the libraries, by option."""


def usage(command: str) -> str:
    """Return how a command is typed."""
    return " ".join(word for word in ("rfdlight", command, _NEEDED.get(command), "[options]") if word)


_KINDS = {flag: kind for kind, flag in registry.FLAGS.items()}


def first_line(thing: Any) -> str:
    """Return the first line of a docstring."""
    return (thing.__doc__ or "").partition("\n")[0]


class HelpFormatter(DefaultHelpFormatter):
    """A formatter of options with their defaults, without types, subclasses and the library's own options."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"max_help_position": 28, **options})

    def add_argument(self, action: argparse.Action) -> None:
        """Add an option, unless the library made it for its own use."""
        if not isinstance(action, ActionLink | _ActionConfigLoad | _ActionHelpClassPath):
            super().add_argument(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = _TEXTS.get(action.dest, action.help or ""), action.default
        kind = _KINDS.get(action.dest)
        if kind:
            text += f" One of {', '.join(registry.names(kind))}, an import path, or a YAML file of one."
            text += f" --{action.dest}.help NAME lists the options of one."
        if default is None or default == argparse.SUPPRESS or isinstance(default, dict) or not action.option_strings:
            return text
        return f"{text} (default: {str(default).lower() if isinstance(default, bool) else default})"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flags = ", ".join(flag for flag in action.option_strings if not flag.endswith("+"))
        if not flags or action.nargs == 0 or action.dest == "print_config":
            return flags or super()._format_action_invocation(action)
        return f"{flags} {'NAME' if action.dest in _KINDS else self._format_args(action, self._metavar(action))}"

    def _metavar(self, action: argparse.Action) -> str:
        """Return the values of a choice, N for a whole number, X for a number, and else the name of the option."""
        if is_mapping(typehint_from_action(action)):
            return "{NAME: VALUE}"
        accepted = list(parts(typehint_from_action(action)))
        choices = [str(choice) for part in accepted if get_origin(part) is Literal for choice in get_args(part)]
        if choices:
            others = ["true", "false"] if bool in accepted else ["N"] if int in accepted else []
            return f"{{{','.join([*choices, *others])}}}"
        number = "X" if float in accepted else "N" if int in accepted else None
        return number or self._get_default_metavar_for_optional(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class TrainerHelp(argparse.Action):
    """Print the help of the Trainer's options and exit."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        formatter = parser._get_formatter()
        formatter.start_section("options of Lightning's Trainer")
        formatter.add_arguments(filter(is_of_trainer, parser._actions))
        formatter.end_section()
        print(formatter.format_help())  # noqa: T201  the output of the option
        parser.exit()


def is_of_trainer(action: argparse.Action) -> bool:
    """Return whether an option is one of Lightning's Trainer."""
    return action.dest.startswith("trainer")

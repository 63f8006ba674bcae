"""The command line: `rfdlight fit`, `rfdlight test`, and the commands that need no trainer."""

from __future__ import annotations

import argparse
import inspect
import os
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn, Union, cast, get_args, get_type_hints

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import rfdlight
from rfdlight import _io
from rfdlight._io import NOT_PLAIN, expanded, is_first, is_plain, replacing
from rfdlight.attacks.base import Attack
from rfdlight.cli import resumption, short_names, unnamed, yaml_loader
from rfdlight.cli.commands import COMMANDS, INJECTED, POSITIONALS
from rfdlight.cli.help import TRAINER_HELP, TrainerHelp, command_help, flags_of
from rfdlight.cli.nulls import refuse_nulls
from rfdlight.cli.parser_errors import mended
from rfdlight.cli.trainer_settings import misconfigurations, processes, refuse_remains, warn_of_slow_precision
from rfdlight.cli.warning_filters import be_quiet
from rfdlight.cli.whole_numbers import refuse_huge
from rfdlight.core import registry, user_code
from rfdlight.data.base import ImageData
from rfdlight.defenses.base import Defense
from rfdlight.errors import UserError, legible, one_line, shown, unknown_name
from rfdlight.evaluation.attack_evaluation import AttackEvaluation
from rfdlight.evaluation.exit_reason import exit_reason
from rfdlight.evaluation.processes import ReportedByLeader
from rfdlight.records import run_directory
from rfdlight.training.classifier import Classifier
from rfdlight.training.export import export_victim, take_best_weights
from rfdlight.victims.resolve import resolve_victim
from rfdlight.victims.weight_files import check_training

_CHOICES = {
    "attack": "What asks the victim",
    "data": "The images",
    "defense": "What protects the victim, in fit during its training; several as a list",
}
"""What is chosen by a short name, and what its help says before the names."""

_VERSION = f"rfdlight {rfdlight.__version__}"

_LARGEST_SEED = 2**32 - 1
"""The largest seed that numpy, which Lightning seeds too, accepts."""

MODELS: dict[str, type[LightningModule]] = {"fit": Classifier, "test": AttackEvaluation}

_KNOWN = [*MODELS, *COMMANDS]
"""The commands, in the order in which they are listed."""


class Parser(LightningArgumentParser):
    """A parser whose errors are one line."""

    command: str | None = None
    """The subcommand that was chosen, for the parser that has subcommands."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        subcommands = getattr(self._subcommands_action, "choices", {})
        parser = subcommands.get(self.command, self)
        raise mended(message, ex, flags_of(parser._actions)) from ex

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Return the help, of `fit` and `test` without the trainer's options, which are many."""
        name = self.prog.rpartition(" ")[2]
        return command_help(self, name) if name in MODELS else super().format_help(formatter)


class RFDLightCLI(LightningCLI):
    """The LightningCLI of rfdlight: one model class per subcommand, short names, a run directory."""

    status = 0
    """The exit status of a command that needs no trainer."""

    def __init__(self, args: list[str]) -> None:
        self.command = shlex.join(["rfdlight", *args])
        expanded, self._notice = expand(args)
        named = next(iter(args), None)
        self._wanted = [named] if named in _KNOWN else _KNOWN
        super().__init__(
            model_class=Classifier,
            datamodule_class=ImageData,
            subclass_mode_data=True,
            trainer_class=Trainer,
            parser_class=Parser,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=expanded,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning asks the instance
        """The Trainer's methods that are commands, and their arguments that are not flags.

        Only the command that was named, if one was: it takes long to make a parser of all options.
        """
        known = {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "test": {"model", "dataloaders", "datamodule", "weights_only", "ckpt_path", "verbose"},
        }
        return {name: arguments for name, arguments in known.items() if name in self._wanted}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Read YAML with short names; options are written out."""
        kwargs.setdefault("description", _first_line(rfdlight))
        kwargs.setdefault("parser_mode", yaml_loader.MODE)
        kwargs.setdefault("allow_abbrev", False)
        parser = super().init_parser(**kwargs)
        parser.add_argument("--version", action="version", version=_VERSION, help="Print the version and exit.")
        return parser

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        for listed in parser._subcommands_action._choices_actions:  # type: ignore[union-attr]
            listed.help = _first_line(MODELS[listed.dest])  # Lightning lists them by what the Trainer says of itself
        for name, function in COMMANDS.items():
            if name not in self._wanted:
                continue
            command = Parser(description=_first_line(function), parser_mode=yaml_loader.MODE, allow_abbrev=False)
            positional = dict(POSITIONALS.get(name, {}))
            dest = positional.pop("dest", "")
            command.add_function_arguments(function, as_group=False, skip={dest, *INJECTED})
            if dest:
                command.add_argument(dest, type=str, **positional)
            self._make_optional(name, command)
            self._subcommand_parsers[name] = command
            parser._subcommands_action.add_subcommand(  # type: ignore[union-attr]
                name, command, help=command.description
            )

    @staticmethod
    def _make_optional(name: str, command: Parser) -> None:
        """Show the component that is taken where none is named as an option that may be left out."""
        kind, _ = unnamed.DEFAULTS.get(name, (None, None))
        for action in command._actions:
            if action.dest == kind:
                action.required = False

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        self._model_class = MODELS[subcommand]
        kwargs["description"] = _first_line(MODELS[subcommand])
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, as a number first, so that errors about it expect one."""
        parser.add_argument(
            "--seed_everything",
            type=Union[int, bool],  # noqa: UP007  the parser tries its types in this order
            default=self.seed_everything_default,
            metavar="SEED",
            help="Seed of the random numbers of Python, numpy and torch; true draws one, false sets none.",
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is neither the trainer's nor the model's nor the data's."""
        parser.add_argument(TRAINER_HELP, action=TrainerHelp)
        parser.add_argument("--run", type=str | None, default=None, help="Folder of this run (default: below runs/).")
        if self._model_class is AttackEvaluation:
            parser.add_argument(
                "--resume",
                type=str | None,
                default=None,
                metavar="RUN",
                help="The folder of a run that was stopped or killed: go on with it, with its own settings.",
            )
            parser.add_subclass_arguments(Attack, "attack", required=True, instantiate=False)
            parser.link_arguments("attack", "model.attack")
        parser.add_argument(
            "--defense",
            type=Defense | list[Defense] | None,
            default=None,
            sub_configs=True,
        )
        for action in parser._actions:
            if action.dest in _CHOICES:
                known = ", ".join(registry.NAMES[action.dest])
                action.help = f"{_CHOICES[action.dest]}: {known}, an import path, or a file that describes it."

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, with the model class of the chosen subcommand."""
        cast(Parser, parser).command = next(iter(args), None)
        try:
            self.config = parser.parse_args(args)
        except (LookupError, AttributeError, RecursionError) as error:
            # The parser reads some values as YAML by itself, and foresees no more than its errors of syntax.
            raise UserError(f"cannot read the command line: {type(error).__name__}: {one_line(error)}") from error
        self._model_class = MODELS.get(self.config.subcommand, LightningModule)
        refuse_huge(self.config[self.config.subcommand].as_dict())

    def _parse_ckpt_path(self) -> None:
        """Check the training to go on with; its file says nothing of the settings, which Lightning would take too."""
        settings = self.config[self.config.subcommand]
        if settings.get("ckpt_path") is not None:
            path = expanded(settings.ckpt_path).absolute()  # which Lightning takes for no address
            check_training(path)
            settings.ckpt_path = str(path)

    def _set_seed(self) -> None:
        if self.config.subcommand not in MODELS:
            return
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool) and not 0 <= seed <= _LARGEST_SEED:
            raise UserError(f"seed_everything must be from 0 to {_LARGEST_SEED}, got {seed}")
        super()._set_seed()

    def instantiate_classes(self) -> None:
        """Make model, data and trainer; what their constructors refuse becomes one line."""
        settings = self.config[self.subcommand].as_dict()
        refuse_nulls(settings, made=COMMANDS.get(str(self.subcommand)))
        if self.subcommand in MODELS:
            refuse_nulls(settings["model"], "model.", MODELS[self.subcommand])
            refuse_nulls(settings["trainer"], "trainer.", Trainer)
        try:
            if self.subcommand in COMMANDS:
                self.config_init = self._parser(self.subcommand).instantiate(self.config[self.subcommand])
            else:
                super().instantiate_classes()
        except (ValueError, TypeError) as error:
            raise mended(str(error), error, ()) from error
        except MisconfigurationException as error:
            raise UserError(f"the trainer refuses: {one_line(error)}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Put the trainer's files into the run directory, and the defenses among its callbacks."""
        refuse_remains(os.environ)
        config = self._get(self.config_init, "trainer")
        defenses = self._get(self.config_init, "defense") or []
        config.callbacks = [*(config.callbacks or []), *(defenses if isinstance(defenses, list) else [defenses])]
        if self.subcommand == "fit":
            self.timer = Timer()
            config.callbacks.append(self.timer)
            self.run = self._place(f"fit-{self.datamodule.name}")
            if config.enable_model_summary is None:
                kwargs["enable_model_summary"] = False  # Lightning's counts no operations without an example input
            if config.logger is None:
                kwargs["logger"] = CSVLogger(str(self.run), name="", version="")
        else:
            self._place_test()
            # Gradient-based answers need autograd; everything else here is shown and stored by rfdlight.
            kwargs |= {
                "inference_mode": False,
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                **processes(config, os.environ),
            }
        with misconfigurations():
            return super().instantiate_trainer(default_root_dir=str(self.run), **kwargs)

    def _place_test(self) -> None:
        """Give an evaluation its folder: a new one, or that of the run to go on with."""
        resumed = self._get(self.config, "resume")
        if resumed:
            self.run = Path(resumed)
            resumption.check_unchanged(self.run, self._settings())
            self.model.resume = True
            return
        attack = registry.short_name("attack", type(self.model.attack)).rpartition(".")[2]
        self.run = self._place(f"{attack}-{self.datamodule.name}")
        self.model.on_ready = self.save_config

    def _place(self, label: str) -> Path:
        """Return the folder of a new run, which the first of several processes may have made already."""
        asked = self._get(self.config, "run")
        return Path(asked) if asked and not is_first(os.environ) else run_directory.plan(asked, label)

    def _settings(self) -> dict[str, Any]:
        """What was parsed, as the YAML of it reads."""
        parser = self._parser(self.subcommand)
        return yaml.safe_load(parser.dump(self.config[self.subcommand], skip_validation=True))

    def _run_subcommand(self, subcommand: str) -> None:
        if self._notice and is_first(os.environ):
            print(f"rfdlight: {shown(self._notice)}")  # noqa: T201
        if subcommand in COMMANDS:
            function, arguments = COMMANDS[subcommand], dict(self.config_init)
            for name in INJECTED & inspect.signature(function).parameters.keys():
                arguments[name] = self._injected(name)
            self.status = function(**arguments) or 0
        elif subcommand == "fit" and is_first(os.environ):
            with run_directory.left_out_unless(self.run, lambda: self.timer.start_time("train") is not None):
                super()._run_subcommand(subcommand)
        else:
            super()._run_subcommand(subcommand)

    def _injected(self, name: str) -> Any:
        if name == "parsed":
            return self._settings()
        return {"make": make, "run": main}[name]

    def before_test(self) -> None:
        """Find bad data and bad weights before there are several processes, each of which would say so."""
        if self.trainer.world_size > 1:
            self.datamodule.setup("test")
            resolve_victim(self.model.victim_spec, self.model.checkpoint, self.datamodule, self.model.config.batch_size)

    def before_fit(self) -> None:
        """Find bad data and bad weights before the run directory is made."""
        self.datamodule.setup("fit")
        self.model.build(self.datamodule)
        warn_of_slow_precision(self.trainer)
        if is_first(os.environ):
            self.save_config()
            parameters = sum(parameter.numel() for parameter in self.model.victim.parameters())
            print(f"{self.model.network_name}: {parameters:,} parameters")  # noqa: T201

    def after_fit(self) -> None:
        """Store the victim and its card."""
        if not self.trainer.is_global_zero or self.trainer.interrupted:
            return
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by one of Lightning's connectors
            print(f"{self.run}: trainer.fast_dev_run tried a few batches and stores no victim")  # noqa: T201
            return
        take_best_weights(self.trainer, self.model)
        seed = self._get(self.config, "seed_everything")
        seconds = self.timer.time_elapsed("train")
        card = export_victim(self.model, self.datamodule, self.run, self.command, seed, seconds)
        low, high = card.clean_interval
        robust = ""
        if card.pgd10_correct is not None and card.pgd10_total is not None:
            robust = f", {card.pgd10_correct / card.pgd10_total:.1%} of {card.pgd10_total} under PGD-10"
        print(  # noqa: T201  the command's answer
            f"{self.run / 'victim.json'}: clean accuracy {card.clean_accuracy:.2%} "
            f"({low:.2%} to {high:.2%}) on {card.clean_total} test images{robust}"
        )

    def save_config(self) -> None:
        """Make the run directory and write the resolved configuration, from which the run can be repeated."""
        run_directory.create(self.run)
        parser = self._parser(self.subcommand)
        with replacing(self.run / resumption.CONFIG) as partial:
            parser.save(self.config[self.subcommand].clone(), str(partial), skip_validation=True, overwrite=True)


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").partition("\n")[0]


_COMPONENTS = ("--attack", "--data", "--defense")
"""Options that may name a file of one component."""


def _expand_configs(args: list[str]) -> list[str]:
    expanded = list(args)
    for i in range(len(args)):
        flag, value, joined = short_names.option_at(args, i)
        is_component = flag.rstrip("+") in _COMPONENTS and value.endswith((".yaml", ".yml"))
        if value and (flag in ("-c", "--config") or is_component):
            path = str(_io.config_path(value))
            if joined:
                expanded[i] = f"{flag}={path}"
            else:
                expanded[i + 1] = path
    return expanded


def _numeric_flags(command: str) -> set[str]:
    """Return the options of a command, beside those of components, that are numbers with a decimal point."""
    made = MODELS.get(command) or COMMANDS.get(command)
    if made is None:
        return set()
    hints = get_type_hints(made.__init__ if inspect.isclass(made) else made)
    prefix = "--model." if command in MODELS else "--"
    return {f"{prefix}{name}" for name, hint in hints.items() if float in (hint, *get_args(hint))}


def expand(args: list[str]) -> tuple[list[str], str | None]:
    """Write a command line out: packaged configs, short names, and the components that need not be named.

    Returns:
        The command line, and one line about data that were not named, if there is something to say.
    """
    args = resumption.with_settings(_expand_configs(args))
    yaml_loader.check_groups(args)
    args = short_names.expand_fractions(short_names.expand_args(args), _numeric_flags(args[0] if args else ""))
    return unnamed.filled_in(args)


def main(args: list[str] | None = None) -> int:
    """Run a command line.

    Args:
        args: Without the program's name; by default those of this process.

    Returns:
        The exit status: 0, 1 for an evaluation that was stopped or in which images failed, or a cell of a sweep that
        failed, 2 for input that cannot be used, 130 for any other command that Ctrl-C ended.
    """
    args = sys.argv[1:] if args is None else args
    if os.getcwd() not in sys.path:
        # A console script has its own folder first on the path; users' modules lie in theirs.
        sys.path.insert(0, os.getcwd())
    be_quiet()
    try:
        _check_command(args)
        cli = RFDLightCLI(args)
    except ReportedByLeader:
        return 0  # another status would make launchers kill process 0, which says what there is to say
    except KeyboardInterrupt:
        print("rfdlight: interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except (Exception, SystemExit) as error:
        line = _failure(error)
        if line is None:
            raise
        print(f"rfdlight: {legible(line)}", file=sys.stderr)  # noqa: T201
        return 2
    wrong = exit_reason(cli.model) if cli.subcommand == "test" else None
    if wrong:
        print(f"rfdlight: {wrong}", file=sys.stderr)  # noqa: T201
    return 1 if wrong else cli.status


def _check_command(args: list[str]) -> None:
    if not args:
        raise UserError(f"expected a command: {', '.join(_KNOWN)}")
    strange = next((arg for arg in args if not is_plain(arg)), None)
    if strange is not None:
        raise UserError(f"{NOT_PLAIN}, got '{strange}'")
    if not args[0].startswith("-") and args[0] not in _KNOWN:
        raise unknown_name("command", args[0], _KNOWN)


def _failure(error: BaseException) -> str | None:
    """Return the line for an exception that the user can act on, None for a fault of rfdlight itself."""
    if isinstance(error, UserError):
        return str(error)
    fault = user_code.fault_of(error)
    if fault is None and isinstance(error, OSError):  # a name too long, a disk that goes away
        return one_line(error)
    return fault


class _Made(RFDLightCLI):
    """Makes what a command line names, and runs nothing."""

    def _set_seed(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def make(args: list[str]) -> Any:
    """Make what a command line of `rfdlight test` names, and run nothing.

    Returns:
        Among others its `model`, `datamodule` and `trainer`; no folder is made.

    Raises:
        UserError: If it cannot be used.
    """
    return _Made(args)

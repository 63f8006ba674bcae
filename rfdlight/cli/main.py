"""The command line: `rfdlight fit`, `rfdlight test`, and the commands that need no trainer."""

from __future__ import annotations

import inspect
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import rfdlight
from rfdlight._io import expanded, is_first, replacing
from rfdlight.attacks.base import Attack
from rfdlight.cli import command_line
from rfdlight.cli.command_parser import INJECTED, command_parser
from rfdlight.cli.commands import COMMANDS, KNOWN, function_of
from rfdlight.cli.front import main
from rfdlight.cli.help import EXAMPLES, TITLES, TrainerHelp, first_line, usage
from rfdlight.cli.launcher import check_remains, started_processes, under_slurm
from rfdlight.cli.parser import MODE, Parser
from rfdlight.cli.trainer_parser import TrainerParser
from rfdlight.core import registry
from rfdlight.data.base import ImageData
from rfdlight.defenses.base import Defense
from rfdlight.errors import UserError, expect, one_line, shown
from rfdlight.evaluation.attack_evaluation import AttackEvaluation
from rfdlight.evaluation.processes import ReportedByLeader
from rfdlight.evaluation.standard import StandardAttack
from rfdlight.evaluation.standard_evaluation import StandardEvaluation, check_standard, is_standard
from rfdlight.records import run_directory
from rfdlight.records.standard import VERSION
from rfdlight.training.classifier import Classifier
from rfdlight.training.export import export_victim, take_best_weights
from rfdlight.victims.weight_files import check_training

_INTENDED = (
    "isinstance.treespec, LeafSpec",
    "does not have many workers",
    "smaller than the logging interval",
    "WeightAveraging callback with a model that overrides",
    "Experiment logs directory",
    "is not supported by the model summary",
    "Total length of `list` across ranks is zero",
    "`srun` command is available on your system but is not used",
)
"""Parts of warnings of libraries about settings that are intended."""

Share = Callable[[LightningModule, ImageData, dict[str, Any]], None]

MODELS: dict[str, type[LightningModule]] = {"fit": Classifier, "test": AttackEvaluation}


class RFDLightCLI(LightningCLI):
    """The LightningCLI of rfdlight: one model class per command, short names, and a run directory."""

    status = 0
    """Exit status of a command that needs no trainer."""

    def __init__(self, args: list[str], share: Share | None = None) -> None:
        self._share = share
        self.command = shlex.join(["rfdlight", *args])
        expanded, self._notice = command_line.expand(args)
        named = next(iter(args), None)
        self._wanted = (named,) if named in KNOWN else KNOWN
        super().__init__(
            model_class=Classifier,
            datamodule_class=ImageData,
            subclass_mode_data=True,
            trainer_class=Trainer,
            parser_class=TrainerParser,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=expanded,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning calls it on the instance
        """Return the methods of the Trainer that are commands, with their arguments that are no options.

        If a command is named, it alone is returned: the parser of all options takes long to build.
        """
        known = {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "test": {"model", "dataloaders", "datamodule", "weights_only", "ckpt_path", "verbose"},
        }
        return {name: arguments for name, arguments in known.items() if name in self._wanted}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser that reads YAML and accepts no abbreviated options."""
        kwargs.setdefault("prog", "rfdlight")
        kwargs.setdefault("usage", "rfdlight COMMAND [options]")
        kwargs.setdefault("description", first_line(rfdlight))
        kwargs.setdefault("parser_mode", MODE)
        kwargs.setdefault("allow_abbrev", False)
        parser = super().init_parser(**kwargs)
        version = f"rfdlight {rfdlight.__version__}"
        parser.add_argument("--version", action="version", version=version, help="Print the version and exit.")
        return parser

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        for listed in parser._subcommands_action._choices_actions:  # type: ignore[union-attr]
            listed.help = first_line(MODELS[listed.dest])  # not the docstrings of the Trainer's methods
        for name in COMMANDS:
            if name in self._wanted:
                self._subcommand_parsers[name] = command = command_parser(name)  # type: ignore[assignment]
                parser._subcommands_action.add_subcommand(  # type: ignore[union-attr]
                    name, command, help=command.description
                )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        self._model_class = MODELS[subcommand]
        kwargs["description"] = first_line(MODELS[subcommand])
        kwargs |= {"usage": usage(subcommand), "epilog": EXAMPLES[subcommand]}
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        titles = TITLES[subcommand]
        for group in parser._action_groups:  # the library's titles are docstrings of base classes and of the Trainer
            option = next((action.dest.partition(".")[0] for action in group._group_actions), "")
            group.title = titles.get(option, group.title)
        rank = {title: i for i, title in enumerate([*titles.values(), "options"])}
        parser._action_groups = sorted(parser._action_groups, key=lambda group: rank.get(group.title or "", len(rank)))
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the run, the attack and the defense."""
        text = "List the options of Lightning's Trainer, such as its devices, and exit."
        parser.add_argument("--trainer.help", action=TrainerHelp, help=text)
        parser.add_argument("--run", type=str | None, default=None, help="Folder of this run (default: below runs/).")
        if self._model_class is AttackEvaluation:
            parser.add_argument(
                "--resume",
                type=str | None,
                default=None,
                metavar="RUN",
                help="Folder of a run that was stopped or killed: resume it with its own settings.",
            )
            parser.add_subclass_arguments(Attack, "attack", required=True, instantiate=False, help="Attack.")
            parser.link_arguments("attack", "model.attack")
        text = "Defense; `--defense+ NAME` adds another one."
        group = parser.add_argument_group("defense")
        group.add_argument("--defense", type=Defense | list[Defense] | None, default=None, help=text)
        next(action for action in parser._actions if action.dest == "data").help = "Data set."

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line."""
        self.config = parser.parse_args(args)
        self._model_class = MODELS.get(self.config.subcommand, LightningModule)

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint of a training; unlike in Lightning, it changes no settings."""
        settings = self.config[self.config.subcommand]
        if settings.get("ckpt_path") is not None:
            path = expanded(settings.ckpt_path).absolute()  # Lightning would fetch an address
            check_training(path)
            settings.ckpt_path = str(path)

    def _set_seed(self) -> None:
        if self.config.subcommand in MODELS:
            cast(Parser, self.parser).make(super()._set_seed, "seed_everything")

    def _add_instantiators(self) -> None:
        """Leave out Lightning's, which dump the configuration as hyperparameters that nothing stores."""

    def instantiate_classes(self) -> None:
        """Make the model, the data and the trainer, or the components of a command without a trainer."""
        parser = cast(Parser, self._parser(self.subcommand))
        try:
            if self.subcommand in COMMANDS:
                self.config_init = parser.make(lambda: parser.instantiate(self.config[self.subcommand]))
            else:
                parser.make(super().instantiate_classes)
                if self._share is not None:
                    self._share(self.model, self.datamodule, self._settings()["data"])
        except MisconfigurationException as error:
            raise UserError(f"the trainer refuses: {one_line(error)}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make a trainer that writes into the run directory and has the defenses among its callbacks."""
        check_remains(os.environ)
        config = self._get(self.config_init, "trainer")
        expect(config.num_nodes < 2**20, "--trainer.num_nodes", "a number of machines", config.num_nodes)
        defenses = self._get(self.config_init, "defense") or []
        config.callbacks = [*(config.callbacks or []), *(defenses if isinstance(defenses, list) else [defenses])]
        if self.subcommand == "fit":
            self.timer = Timer()
            config.callbacks.append(self.timer)
            self.run = self._place(f"fit-{self.datamodule.name}")
            if config.enable_model_summary is None:
                kwargs["enable_model_summary"] = False  # it counts no operations without an example input
            if config.logger is None:
                kwargs["logger"] = CSVLogger(str(self.run), name="", version="")
        else:
            self._place_test()
            # Gradients need autograd; rfdlight shows and stores everything else itself.
            kwargs |= {
                "inference_mode": False,
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                **_processes(config, os.environ),
            }
        try:
            return super().instantiate_trainer(default_root_dir=str(self.run), **kwargs)
        except (RuntimeError, OverflowError, MemoryError) as error:
            # Two equal callbacks, or numbers that are too large.
            raise UserError(f"the trainer refuses: {one_line(error) or type(error).__name__}") from error

    def _place_test(self) -> None:
        """Set the folder of an evaluation: a new folder, or that of the resumed run."""
        resumed = self._get(self.config, "resume")
        if resumed:
            self.run = Path(resumed)
            command_line.check_unchanged(self.run, self._settings())
            self.model.resume = True
            return
        kind = type(self.model.attack)
        attack = VERSION if kind is StandardAttack else registry.short_name("attack", kind).rpartition(".")[2]
        self.run = self._place(f"{attack}-{self.datamodule.name}")
        self.model.on_ready = self.save_config

    def _place(self, label: str) -> Path:
        """Return the folder of a new run; the first of several processes may have made it already."""
        given = self._get(self.config, "run")
        return Path(given) if given and not is_first(os.environ) else run_directory.plan(given, label)

    def _settings(self) -> dict[str, Any]:
        """Return the parsed settings as plain values."""
        parser = self._parser(self.subcommand)
        return yaml.safe_load(parser.dump(self.config[self.subcommand], skip_validation=True))

    def _run_subcommand(self, subcommand: str) -> None:
        if self._notice and is_first(os.environ):
            print(f"rfdlight: {shown(self._notice)}")  # noqa: T201
        if subcommand in COMMANDS:
            function, arguments = function_of(subcommand), dict(self.config_init)
            injected = {"parsed": self._settings(), "make": make, "run": main}
            for name in INJECTED & inspect.signature(function).parameters.keys():
                arguments[name] = injected[name]
            self.status = function(**arguments) or 0
        elif subcommand == "fit" and is_first(os.environ):
            with run_directory.left_out_unless(self.run, lambda: self.timer.start_time("train") is not None):
                super()._run_subcommand(subcommand)
        else:
            if is_standard(self.model):
                check_standard(self.model.config)
                self.model = StandardEvaluation.of(self.model)
            super()._run_subcommand(subcommand)

    def before_test(self) -> None:
        """Check data and weights before several processes start and each reports the same error."""
        if self.trainer.world_size > 1:
            self.datamodule.setup("test")
            self.model.load_victim(self.datamodule)

    def before_fit(self) -> None:
        """Check data and weights before the run directory is made."""
        self.datamodule.setup("fit")
        self.model.build(self.datamodule)
        if is_first(os.environ):
            self.save_config()
            parameters = sum(parameter.numel() for parameter in self.model.victim.parameters())
            print(f"{self.model.network_name}: {parameters:,} parameters")  # noqa: T201

    def after_fit(self) -> None:
        """Write the trained victim and its card."""
        if not self.trainer.is_global_zero or self.trainer.interrupted:
            return
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
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
        print(  # noqa: T201  the output of the command
            f"{self.run / 'victim.json'}: clean accuracy {card.clean_accuracy:.2%} "
            f"({low:.2%} to {high:.2%}) on {card.clean_total} test images{robust}"
        )

    def save_config(self) -> None:
        """Make the run directory and write the resolved configuration, which repeats the run."""
        run_directory.create(self.run)
        parser = self._parser(self.subcommand)
        with replacing(self.run / command_line.CONFIG) as partial:
            parser.save(self.config[self.subcommand].clone(), str(partial), skip_validation=True, overwrite=True)


def _processes(config: Namespace, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the Trainer settings of an evaluation: by default the processes of torchrun or srun, or one.

    The success criterion counts in float64, and every process has to run the command line.
    """
    single = config.precision in (None, 32, "32", "32-true")
    expect(single, "--trainer.precision", "32-true", config.precision, "the attack's own is --model.precision")
    on_mps = config.accelerator == "mps"
    expect(not on_mps, "--trainer.accelerator", "cpu or a device with float64", "mps")
    expect(config.strategy in ("auto", "ddp"), "--trainer.strategy", "ddp", config.strategy)
    settings: dict[str, Any] = {}
    if config.accelerator == "auto" and torch.backends.mps.is_available():
        settings["accelerator"] = "cpu"
    if under_slurm(environ):
        # Lightning's checkpoints hold no part of an evaluation; --resume continues a preempted job.
        settings["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    if config.devices == "auto":
        here, machines = started_processes(environ) or (1, config.num_nodes)
        settings |= {"devices": here, "num_nodes": machines}
        if here * machines > 1:
            settings["strategy"] = "ddp"
    return settings


def run(args: list[str], share: Share | None = None) -> int:
    """Run a command line that begins with a command, and return its exit status.

    `share` gets the model and the data module of an evaluation, and the settings of the data, before they are used.
    """
    _be_quiet()
    try:
        cli = RFDLightCLI(args, share)
    except ReportedByLeader:
        return 0  # at another status launchers kill process 0, which prints the error
    wrong = cli.model.exit_reason if cli.subcommand == "test" else None
    if wrong:
        print(f"rfdlight: {wrong}", file=sys.stderr)  # noqa: T201
    return 1 if wrong else cli.status


def _be_quiet() -> None:
    """Hide advertisements of libraries, and warnings about settings that are intended."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for part in _INTENDED:
        warnings.filterwarnings("ignore", f".*{part}.*")


class _Made(RFDLightCLI):
    """A command line whose components are made and that runs nothing."""

    def _set_seed(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def make(args: list[str]) -> Any:
    """Make the components of a command line of `rfdlight test`: `model`, `datamodule` and `trainer`; run nothing."""
    _be_quiet()
    return _Made(args)

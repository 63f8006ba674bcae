"""The command line: `rfdlight fit`, `rfdlight test`, `rfdlight report`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import get_loader, set_loader
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger

from rfdlight import names, packaged
from rfdlight.errors import UserError
from rfdlight.modules.classifier import Classifier
from rfdlight.modules.export import export_victim
from rfdlight.results import run_directory

MODELS = {"fit": Classifier}


def _load_yaml(text: str) -> Any:
    return names.expand_config(get_loader("yaml")(text))


set_loader("rfdlight", _load_yaml, exceptions=(yaml.YAMLError,))


class Parser(LightningArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(" ".join(message.split())) from ex


class RFDLightCLI(LightningCLI):
    """The LightningCLI of rfdlight: one model class per subcommand, short names, a run directory."""

    def __init__(self, args: list[str], command: str) -> None:
        self.command = command
        super().__init__(
            model_class=Classifier,
            datamodule_class=LightningDataModule,
            subclass_mode_data=True,
            trainer_class=Trainer,
            parser_class=Parser,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The Trainer's methods that are commands, and their arguments that are not flags."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"}}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Read YAML with short names."""
        kwargs.setdefault("parser_mode", "rfdlight")
        return super().init_parser(**kwargs)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        self._model_class = MODELS[subcommand]
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is neither the trainer's nor the model's nor the data's."""
        parser.set_defaults({"data": {"class_path": names.resolve("data", "digits")}})
        parser.add_argument("--run", type=str | None, default=None, help="Folder of this run (default: below runs/).")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, with the model class of the chosen subcommand."""
        self.config = parser.parse_args(args)
        self._model_class = MODELS[self.config.subcommand]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Put the trainer's files into the run directory."""
        data = type(self.datamodule).name
        self.run = run_directory.plan(self._get(self.config, "run"), f"{self.subcommand}-{data}")
        kwargs["default_root_dir"] = str(self.run)
        if self.subcommand == "fit" and self._get(self.config_init, "trainer").logger is None:
            kwargs["logger"] = CSVLogger(str(self.run), name="", version="")
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Find bad data before the run directory is made."""
        self.datamodule.setup("fit")
        self.save_config()

    def after_fit(self) -> None:
        """Store the victim and its card."""
        if self.trainer.is_global_zero and not self.trainer.interrupted:
            seed = self._get(self.config, "seed_everything")
            card = export_victim(self.model, self.datamodule, self.run, self.command, seed)
            low, high = card.clean_interval
            print(  # noqa: T201  the command's answer
                f"{self.run / 'victim.json'}: clean accuracy {card.clean_accuracy:.2%} "
                f"({low:.2%} to {high:.2%}) on {card.clean_total} test images"
            )

    def save_config(self) -> None:
        """Write the resolved configuration, from which the run can be repeated."""
        run_directory.create(self.run)
        parser = self._parser(self.subcommand)
        config = self.config[self.subcommand].clone()
        parser.save(config, str(self.run / "config.yaml"), skip_validation=True, overwrite=True)


def _expand_configs(args: list[str]) -> list[str]:
    expanded = list(args)
    for i, token in enumerate(args):
        flag, equals, value = token.partition("=")
        if flag not in ("-c", "--config"):
            continue
        if equals:
            expanded[i] = f"{flag}={_config_path(value)}"
        elif i + 1 < len(args):
            expanded[i + 1] = _config_path(args[i + 1])
    return expanded


def _config_path(name: str) -> str:
    return name if Path(name).is_file() else str(packaged.find("configs", name, ".yaml"))


def main(args: list[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    args = sys.argv[1:] if args is None else args
    if os.getcwd() not in sys.path:
        # A console script has its own folder first on the path; users' modules lie in theirs.
        sys.path.insert(0, os.getcwd())
    try:
        RFDLightCLI(names.expand_args(_expand_configs(args)), shlex.join(["rfdlight", *args]))
    except UserError as error:
        print(f"rfdlight: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0

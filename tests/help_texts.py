"""Writes the help and the options of every command, which `rfdlight` reads without importing torch."""

import json
import os
from contextlib import suppress

from rfdlight.cli.commands import TEXTS
from rfdlight.cli.main import RFDLightCLI
from rfdlight.cli.parser import expected_values, flags_of

FOLDER = TEXTS


class Parsers(RFDLightCLI):
    """The parsers of the command line, which parse nothing."""

    def parse_arguments(self, parser, args):
        self.built = parser
        raise SystemExit


def rendered() -> dict[str, str]:
    """The files by name: the help of `rfdlight` and its commands, 80 columns wide, and the options of the commands."""
    os.environ["COLUMNS"] = "80"
    made = Parsers.__new__(Parsers)
    with suppress(SystemExit):
        made.__init__([])
    parsers = {"rfdlight": made.built, **made.built._subcommands_action.choices}
    texts = {f"{name}.txt": parser.format_help() for name, parser in parsers.items()}
    options = {
        name: dict.fromkeys(flags_of(parser._actions)) | expected_values(parser._actions)
        for name, parser in parsers.items()
    }
    return texts | {"options.json": json.dumps(options, indent=1) + "\n"}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, encoding="utf-8")

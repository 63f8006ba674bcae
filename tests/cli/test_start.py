"""The start of the command line: what imports neither torch nor Lightning, and what it prints without them."""

import json
import subprocess
import sys

import help_texts
import pytest

from rfdlight.cli import front, main
from rfdlight.cli.commands import KNOWN

CHECK = """
import contextlib, io, json, sys
import rfdlight
assert "yaml" not in sys.modules and "numpy" not in sys.modules
import rfdlight.__main__
import rfdlight.cli.sweep.status, rfdlight.records.images, rfdlight.records.run_folders, rfdlight.reporting.report_files
from rfdlight.cli.front import main
for line in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(line)
    loaded = [name for name in ("torch", "lightning") if name in sys.modules]
    print(json.dumps([line, status, bool(out.getvalue()), err.getvalue(), loaded]))
"""
HELP = [
    ["sweep", "experiment/victims", "--status", "json"],
    ["sweep", "experiment/victims", "--status=table"],
    ["--help"],
    ["-h"],
    ["--version"],
    ["completion"],
    *([name, flag] for name in KNOWN for flag in ("--help", "-h")),
]
WRONG = {
    "": f"expected a command: {', '.join(KNOWN)}",
    "tets": "unknown command 'tets'; did you mean test?",
    "test x\0": r"command line: expected arguments in UTF-8 without NUL characters, got 'x\x00'",
    "--foo": "foo: unknown option; --help lists the options",
    "sweep experiment/victims --status table --num_images x": "num_images: expected a whole number, got 'x'",
    "sweep experiment/victims --jobs 0": "jobs: expected at least 1, got 0",
    "report": "runs: expected at least one run directory, got none",
    "report nowhere": "expected a run directory, got nowhere, which is no folder",
    "report memory://nowhere": "expected a run directory, got memory://nowhere, which is no folder",
    "report a --budgets x": "budgets: expected a whole number, got 'x'",
    "report a --budgets=-1/2": "budgets: expected a whole number, got '-1/2'",
    "report a --compare y": "compare: unknown value 'y'; known: attacks, defenses",
    "report a --outpt x": "outpt: unknown option; did you mean output?",
    "test --attack rays --budget 5": "budget: unknown option; did you mean model.budget?",
    "test --attack rays --model.bugdet=5": "model.bugdet: unknown option; did you mean model.budget?",
    "test --attak.eps 5 --attack rays": "attak.eps: unknown option; did you mean attack.eps?",
    "fit --epochs 5": "epochs: unknown option; did you mean trainer.max_epochs or trainer.min_epochs?",
    "doctor --victim x": "victim: unknown option; did you mean victims?",
    "sweep x --dry": "dry: unknown option; did you mean dry_run?",
    "test --attack squere": "unknown attack 'squere'; did you mean square?",
    "test --defense nois --defense.sigma 1": "unknown defense 'nois'; did you mean logit_noise or input_noise?",
    "test --attack square --model.budget abc": "model.budget: expected a whole number, got 'abc'",
    "test --model.query_counting exat": "model.query_counting: unknown value 'exat'; did you mean exact?",
    "fit --model.warmup=much": "model.warmup: expected a number, got 'much'",
    "sweep x --num_images some": "num_images: expected a whole number, got 'some'",
}


def test_help_versions_and_wrong_command_lines_import_neither_torch_nor_lightning(tmp_path):
    lines = [*HELP, *(line.split(" ") if line else [] for line in WRONG)]
    done = subprocess.run(
        [sys.executable, "-c", CHECK, json.dumps(lines)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found[: len(HELP)] == [[line, 0, True, "", []] for line in HELP]
    wrong = [[2, False, f"rfdlight: {message}\n", []] for message in WRONG.values()]
    assert [answer[1:] for answer in found[len(HELP) :]] == wrong


def test_the_written_help_and_options_are_those_of_the_parsers(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    written = {path.name: path.read_text("utf-8") for path in help_texts.FOLDER.iterdir()}
    assert written == help_texts.rendered(), "make help-texts"


@pytest.mark.parametrize("line", ["test --attack rays --attack.x 1", "test --trainer.x 1", "test --model.criterion.x 1",
                                  "test --attack a.B --model.budget 1e", "test --model.memory .inf",
                                  "test --attack a/b.yaml", "test --model.seed null", "test --attack null",
                                  "test --model.budget= --attack standard",
                                  "test --bugdet 5 --help", "fit --model.optimizer.x 1", "test -x", "test a",
                                  "scales v --data.x 1"])  # fmt: skip
def test_options_that_depend_on_a_class_or_a_version_are_left_to_the_parser(monkeypatch, line):
    parsed = []
    monkeypatch.setattr(main, "run", lambda args, share: parsed.append(args) or 0)
    assert front.main(line.split()) == 0
    assert parsed == [line.split()]


def test_with_components_of_other_packages_the_help_is_made_by_the_parser(monkeypatch):
    parsed = []
    monkeypatch.setattr(main, "run", lambda args, share: parsed.append(args) or 0)
    monkeypatch.setattr("rfdlight.core.registry.names", lambda kind: [*"abcdefghijklmnopqrstuvwxyz0123456789"])
    assert [front.main(line) for line in (["test", "--help"], ["test", "--x", "1"])] == [0, 0]
    assert parsed == [["test", "--help"], ["test", "--x", "1"]]

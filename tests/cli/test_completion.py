"""Completion of command lines: what bash offers after `eval "$(rfdlight completion)"`."""

import shutil
import subprocess

import pytest

from rfdlight.cli.completion import completion
from rfdlight.core.registry import names

WORDS = """
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
_rfdlight
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["te"], ["test"]),
        (["test", "--model.bud"], ["--model.budget"]),
        (["test", "--attack", "sq"], ["square"]),
        (["test", "--attack", "=", "sq"], ["square"]),
        (["test", "--attack", "="], ["standard", *names("attack")]),
        (["test", "--attack.eps", "0.05", "--model.victim", "vit"], ["vit-cifar10"]),
        (["test", "--model.query_counting", ""], ["exact", "paper"]),
        (["report", "--comp"], ["--compare"]),
        (["report", "--compare", "de"], ["defenses"]),
        (["report", "runs"], []),  # left to bash: files
        (["report", "--attack.e"], []),
    ],
)
def test_bash_completes_commands_options_and_names(capsys, typed, offered):
    completion()
    script = capsys.readouterr().out + WORDS
    done = subprocess.run(
        ["bash", "-u", "-c", script, "bash", "rfdlight", *typed], capture_output=True, text=True, check=True
    )
    assert (done.stdout.split(), done.stderr) == (offered, "")

"""No file that a user is handed can harm them: each is refused in one line, and no code of it runs."""

import csv
import io
import pickle
import shlex
import sys
import tarfile
import webbrowser
from pathlib import Path

import pytest
import torch
import yaml
from fuzz.record_files import sealed
from PIL import EpsImagePlugin
from torchvision.datasets import utils

from rfdlight.data import CIFAR10

from .hostile_files import CIFAR, RECORD, Code, images, picture, run
from .hostile_lines import CASES

QUICK = {
    "torch.save beside a card",
    "torch.save",
    "pickle in a zip",
    "tar of torch",
    "script",
    "weights without end",
    "training with code",
    "card with an order to the terminal",
    "object/apply in a config",
    "object/apply in a sweep",
    "aliases without end",
    "callback that starts a process",
    "schedule that binds a command",
    "os.system as attack",
    "builtins.eval as defense.schedule",
    "os.abort as victim",
    "bound function of Python as victim",
    "image of 150 million pixels",
    "image that is a program",
    "image that never comes",
    "archive with code",
    "record that is nested without end",
    "pickle as images",
    "configuration that is a file of the reader",
    "run that would write over a file of the user",
    "run with a tag",
}
"""One file for each reader and each way to do harm; the rest is slow."""


@pytest.fixture
def canary(elsewhere, monkeypatch):
    """What hostile code would make; also what is started in its place by a browser or by Ghostscript."""
    path = elsewhere / "canary"
    monkeypatch.setattr(webbrowser, "open", lambda *_: path.touch())
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: path.touch())
    for name in ("this", "antigravity", "mine", "bound", "other"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_hostile_file_is_one_line_status_2_and_does_nothing(name, elsewhere, canary, command):
    case = CASES[name]
    case.build(elsewhere, canary)
    before = names(elsewhere)
    said = command(*shlex.split(case.line))
    start, anything, _ = f"rfdlight: {case.expected}\n".replace("{folder}", str(elsewhere)).partition("{anything}")
    assert (said.err[: len(start)] if anything else said.err) == start
    assert said.err.count("\n") == 1
    assert said.status in (2, 3)
    assert said.out == ""
    assert names(elsewhere) == before
    assert not canary.exists()


def test_every_quick_case_is_there():
    assert CASES.keys() >= QUICK


def names(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_the_code_in_these_files_would_run(canary):
    pickle.loads(pickle.dumps(Code(canary)))
    assert canary.exists()
    canary.unlink()
    yaml.unsafe_load(f'!!python/object/apply:os.system ["touch {canary}"]')
    assert canary.exists()


def test_an_archive_of_cifar10_that_is_another_is_not_unpacked(elsewhere, canary, command, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(utils, "_urlretrieve", offline)
    (elsewhere / "root").mkdir()
    with tarfile.open(elsewhere / "root/cifar-10-python.tar.gz", "w:gz") as archive:
        for name in ("../canary", str(canary)):
            archive.addfile(tarfile.TarInfo(name))
    said = command(*shlex.split(f"{CIFAR} --data.download true"))
    assert said.status == 2
    assert said.err.startswith("rfdlight: cannot fetch the CIFAR-10 archive into root: ")
    assert not canary.exists()


def test_class_folders_and_the_root_may_be_links(elsewhere, canary):
    images(picture("PNG"))(elsewhere, canary)
    (elsewhere / "root/test/cat").rename(elsewhere / "cats")
    (elsewhere / "root/test/cat").symlink_to(elsewhere / "cats")
    (elsewhere / "link").symlink_to("root")
    assert CIFAR10("link").images("test").ids == ["cifar10/test/cat.png", "cifar10/test/dog.png"]


HOSTILE = {
    "victim": "<script>alert(1)</script>[red]\x1b[2J",
    "attack": r"\input{x}| [y](http://localhost)",
    "defense": '=HYPERLINK("http://localhost")',
}


@pytest.fixture
def reported(elsewhere, canary, command):
    """The report of a run whose facts and ids are orders to whatever reads them, and what was said."""
    record = sealed(RECORD | {"id": "../../<b>\x1b[2J"}) + b"\n"
    run(records=record, **HOSTILE)(elsewhere, canary)
    (elsewhere / "run").rename(elsewhere / "[bold]run\x1b[2J")
    said = command("report", "[bold]run\x1b[2J", "--output", "out")
    assert (said.status, said.err) == (0, "")
    return said.out, {path.suffix: path.read_text() for path in (elsewhere / "out").glob("report.*")}


def test_no_format_of_a_report_takes_a_fact_for_an_order(reported):
    out, files = reported
    assert "<script>alert(1)</script>[red]\\x1b[2J" in out.replace("\n", "")
    printed = out + files[".md"] + files[".tex"]
    assert [text for text in printed.split("\n") if any(character < " " for character in text)] == []
    assert "<script" not in files[".html"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;[red]\\x1b[2J" in files[".html"]
    line = next(csv.DictReader(io.StringIO(files[".csv"])))
    assert line["defense"] == "'" + HOSTILE["defense"]
    assert not any(cell.startswith(("=", "+", "@")) for cell in line.values())
    assert r"\textbackslash{}input\{x\}" in files[".tex"]
    assert r"\\input{x}\| \[y](http://localhost)" in files[".md"]


def test_a_checkpoint_that_is_gone_on_with_says_nothing_of_the_settings(elsewhere, built):
    content = {"optimizer_states": [], "lr_schedulers": [], "loops": {}}
    content |= {"pytorch-lightning_version": "2.6", "hyper_parameters": {"network": "resnet20"}}
    torch.save(content | {"state_dict": {"weight": torch.zeros(1)}}, "x.ckpt")
    cli = built("fit", "--model.network", "resnet8", "--ckpt_path", "x.ckpt")
    assert cli.config.fit.model.network == "resnet8"
    assert cli.config.fit.ckpt_path == str(elsewhere / "x.ckpt")

"""The data, the victims and the run folder: there, missing, incomplete, altered and closed."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from rfdlight import _io
from rfdlight.cli import installed_files as files
from rfdlight.cli.installed_files import (
    check_cifar10,
    check_data,
    check_digits,
    check_run_folder,
    check_shipped_victims,
    check_victims,
)
from rfdlight.data.cifar10 import CIFAR10
from rfdlight.data.digits import Digits
from rfdlight.data.folder import ImageFolder
from rfdlight.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """The user's cache, which must stay as it is, that is not there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RFDLIGHT_DATA", raising=False)
    yield
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def cifar10(tmp_path) -> Path:
    """A data root with 10,000 empty test images: they are counted, not decoded."""
    root = tmp_path / "data"
    for name in CLASSES:
        (root / "test" / name).mkdir(parents=True)
        for number in range(1000):
            (root / "test" / name / f"{name}_{number}.png").touch()
    return root


@pytest.fixture
def card(tmp_path) -> Path:
    """A copy of the digits victim."""
    for suffix in (".json", ".safetensors"):
        shutil.copy(_io.shipped_folder("checkpoints") / f"resnet8-digits{suffix}", tmp_path / f"mine{suffix}")
    return tmp_path / "mine.json"


def test_the_digits_are_read():
    (finding,) = check_digits()
    assert (finding.check, finding.state) == ("data digits", "ok")
    assert finding.found == "599 test images, the first of 3 x 32 x 32"


def test_data_that_cannot_be_read_raise_what_the_row_tells(tmp_path):
    with pytest.raises(UserError, match="no CIFAR-10 under"):
        check_data(CIFAR10(str(tmp_path)))
    (tmp_path / "test/rose").mkdir(parents=True)
    (tmp_path / "test/tulip").mkdir()
    (tmp_path / "test/rose/one.png").write_text("no image")
    with pytest.raises(UserError, match="cannot read the image"):
        check_data(ImageFolder(str(tmp_path)))


def test_labels_outside_the_classes_are_found(monkeypatch):
    monkeypatch.setattr(Digits, "num_classes", 9)
    with pytest.raises(UserError, match="got the label 9"):
        check_digits()


def test_cifar10_whole_incomplete_missing_and_nowhere(cifar10, monkeypatch, tmp_path):
    (finding,) = check_cifar10()
    assert (finding.state, finding.remedy) == ("warn", "for CIFAR-10 alone: export RFDLIGHT_DATA=FOLDER")
    assert finding.found.startswith("cifar10 needs a data root")

    monkeypatch.setenv("RFDLIGHT_DATA", str(tmp_path / "nowhere"))
    (finding,) = check_cifar10()
    assert finding.state == "warn"
    assert finding.found.startswith(f"no CIFAR-10 under {tmp_path / 'nowhere'}")

    monkeypatch.setenv("RFDLIGHT_DATA", str(cifar10))
    (finding,) = check_cifar10()
    assert (finding.check, finding.state, finding.found) == ("data cifar10", "ok", "10,000 of 10,000 test images")

    (cifar10 / "test/cat/cat_7.png").unlink()
    (finding,) = check_cifar10()
    assert (finding.state, finding.found) == ("warn", "9,999 of 10,000 test images")


def test_all_shipped_victims_are_what_their_cards_say():
    (finding,) = check_shipped_victims("mend")
    assert (finding.check, finding.state) == ("victims", "ok")
    shipped = sorted(path.stem for path in _io.shipped_folder("checkpoints").glob("*.json"))
    assert finding.found == f"weights as on the cards: {', '.join(shipped)}"


def test_a_package_without_victims_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(_io, "shipped_folder", lambda kind: tmp_path)
    with pytest.raises(UserError, match="no victim cards in"):
        check_shipped_victims("mend")


def test_a_tampered_shipped_victim_is_named(monkeypatch, tmp_path, card):
    (tmp_path / "mine.safetensors").write_bytes((tmp_path / "mine.safetensors").read_bytes()[:-1] + b"\x01")
    monkeypatch.setattr(_io, "shipped_folder", lambda kind: tmp_path)
    (finding,) = check_shipped_victims("mend")
    assert (finding.state, finding.remedy) == ("fail", "mend")
    assert finding.found.startswith(f"{tmp_path / 'mine.safetensors'} is not the file its card describes")


def test_a_bad_card_is_a_row_of_its_own_and_the_good_ones_are_loaded(card, tmp_path):
    altered = tmp_path / "altered.json"
    content = json.loads(card.read_text())
    altered.write_text(json.dumps(content | {"sha256": "0" * 64}))
    shutil.copy(tmp_path / "mine.safetensors", tmp_path / "altered.safetensors")
    (tmp_path / "other.json").write_text("{}")
    cards = {name: tmp_path / f"{name}.json" for name in ("altered", "mine", "missing", "other")}
    *bad, good = check_victims(cards, "mend")
    assert [(finding.check, finding.state, finding.remedy) for finding in bad] == [("victim", "fail", "mend")] * 3
    for finding, name in zip(bad, ("altered.safetensors", "missing.json", "other.json"), strict=True):
        assert str(tmp_path / name) in finding.found
    assert (good.state, good.found) == ("ok", "weights as on the cards: mine")


def test_a_victim_that_breaks_in_another_way_is_named_too(card, monkeypatch):
    def breaks(path):
        raise MemoryError("too large")

    monkeypatch.setattr(files, "load_victim", breaks)
    (finding,) = check_victims({"mine": card}, "mend")
    assert (finding.state, finding.found) == ("fail", f"{card}: MemoryError: too large")


def test_no_victims_of_ones_own_are_no_row():
    assert check_victims({}, "mend") == []


def test_a_run_folder_is_written_into_and_left_as_it_was(elsewhere):
    (finding,) = check_run_folder(elsewhere / "runs")
    assert (finding.check, finding.state) == (
        "run folder",
        "ok" if shutil.disk_usage(elsewhere).free >= 1e9 else "warn",
    )
    assert finding.found.startswith(f"{elsewhere}, ")
    assert list(elsewhere.iterdir()) == []
    (elsewhere / "runs").mkdir()
    (finding,) = check_run_folder(elsewhere / "runs")
    assert finding.found.startswith(f"{elsewhere / 'runs'}, ")
    assert list((elsewhere / "runs").iterdir()) == []


def test_a_file_in_the_place_of_the_run_folder_fails(tmp_path):
    (tmp_path / "runs").write_text("mine")
    (finding,) = check_run_folder(tmp_path / "runs")
    assert (finding.state, finding.found) == ("fail", f"cannot write into {tmp_path / 'runs'}: Not a directory")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even the superuser may write to")
def test_a_closed_run_folder_fails():
    (finding,) = check_run_folder(Path("/proc/runs"))
    assert finding.state == "fail"
    assert finding.found.startswith("cannot write into /proc: ")


@pytest.mark.parametrize(("free", "state"), [(999_999_999, "warn"), (1_000_000_000, "ok")])
def test_a_disk_needs_a_gigabyte(monkeypatch, tmp_path, free, state):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 0, free))
    (finding,) = check_run_folder(tmp_path / "runs")
    assert (finding.state, finding.found) == (state, f"{tmp_path}, 1.0 GB free")

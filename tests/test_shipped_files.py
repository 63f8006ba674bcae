import pytest

from rfdlight import _io
from rfdlight.errors import UserError


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    for name in ("fit/resnet20.yaml", "fit/resnet8_digits.yaml", "test.yaml", "test.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.setattr(_io, "shipped_folder", lambda kind: tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["fit/resnet20", "fit/resnet20.yaml"])
def test_a_config_is_found_with_and_without_its_suffix(shipped, name):
    assert _io.find_shipped("configs", name, ".yaml") == shipped / "fit" / "resnet20.yaml"


def test_the_suffix_tells_files_of_one_name_apart(shipped):
    assert _io.find_shipped("configs", "test", ".yaml") == shipped / "test.yaml"
    assert _io.find_shipped("checkpoints", "test", ".json") == shipped / "test.json"


def test_an_unknown_name_names_the_nearest(shipped):
    with pytest.raises(UserError, match=r"^unknown config 'resnet20'; did you mean fit/resnet20.*\?$"):
        _io.find_shipped("configs", "resnet20", ".yaml")
    with pytest.raises(UserError, match=r"^unknown victim 'zzz'; known: test$"):
        _io.find_shipped("checkpoints", "zzz", ".json")


def test_a_folder_is_no_config(shipped):
    with pytest.raises(UserError, match=r"^unknown config 'fit'; "):
        _io.find_shipped("configs", "fit", ".yaml")


@pytest.mark.parametrize("kind", ["configs", "checkpoints"])
def test_the_shipped_folders_are_there_and_whatever_they_hold_can_be_found(kind):
    folder = _io.shipped_folder(kind)
    assert folder.is_dir()
    suffix = {"configs": ".yaml", "checkpoints": ".json"}[kind]
    for path in folder.rglob(f"*{suffix}"):
        name = path.relative_to(folder).with_suffix("").as_posix()
        assert _io.find_shipped(kind, name, suffix) == path

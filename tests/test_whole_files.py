"""Files that appear whole, with the permissions that the user's umask gives."""

import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from rfdlight import _io


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_a_file_of_tensors_has_the_permissions_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        for _ in range(2):
            with _io.replacing(tmp_path / "a.safetensors") as partial:
                save_file({"a": torch.zeros(1)}, partial)
        _io.write_file(tmp_path / "a.json", "{}")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {mode}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]

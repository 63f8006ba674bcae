import importlib
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from rfdlight.attacks.square import Square
from rfdlight.data.sources import Images
from rfdlight.errors import ResumeError, UserError
from rfdlight.evaluation.fingerprint import check_same, fingerprint, write
from rfdlight.victims.digest import weights_digest


def images():
    pixels = torch.arange(70 * 12).reshape(70, 3, 2, 2).to(torch.uint8)
    return Images(pixels, torch.arange(70) % 10, [f"own/test/{number:02d}" for number in range(70)])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 10))


def found(**changes):
    asked = {"victim": network(), "images": images(), "parts": [Square()], "facts": {"budget": 10}, **changes}
    return fingerprint(**asked)


def nudged(change):
    changed = network()
    with torch.no_grad():
        change(changed)
    return changed


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"victim": nudged(lambda net: net[3].bias[7].add_(1e-6))}, ["weights"]),
        ({"victim": nudged(lambda net: net[1].running_mean[3].add_(1e-6))}, ["weights"]),
        ({"victim": nudged(lambda net: net[1].num_batches_tracked.add_(1))}, ["weights"]),
        ({"images": replace(images(), labels=images().labels.roll(1))}, ["images"]),
        ({"images": replace(images(), pixels=images().pixels + 1)}, ["images"]),
        ({"images": replace(images(), pixels=torch.cat([images().pixels[:-1], images().pixels[:1]]))}, ["images"]),
        ({"images": images().take(list(range(69)))}, ["images"]),
        ({"facts": {"budget": 11}}, ["budget"]),
        ({"facts": {}}, ["budget"]),
    ],
)
def test_whatever_decides_the_numbers_tells_two_experiments_apart(changes, names, tmp_path):
    before, now = found(), found(**changes)
    assert [name for name in before | now if before.get(name) != now.get(name)] == names
    write(tmp_path, before)
    check_same(tmp_path, found())
    with pytest.raises(UserError, match=f"two experiments would be mixed: {names[0]} is .*, was "):
        check_same(tmp_path, now)


def test_the_memory_format_of_the_weights_does_not_count():
    assert weights_digest(network()) == weights_digest(network().to(memory_format=torch.channels_last))


@pytest.mark.parametrize("content", ["{", "[]", "", "3"])
def test_a_damaged_fingerprint_is_one_line(content, tmp_path):
    (tmp_path / "fingerprint.json").write_text(content)
    with pytest.raises(UserError, match=r"cannot resume .*fingerprint\.json: "):
        check_same(tmp_path, found())


def test_the_code_of_a_module_that_makes_the_victim_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "maker_of_nets.py"
    path.write_text("net = 1")
    module = importlib.import_module("maker_of_nets")
    before = found(parts=[module])
    path.write_text("net = 2")
    after = found(parts=[module])
    assert [name for name in before if before[name] != after[name]] == ["code of maker_of_nets"]
    del sys.modules["maker_of_nets"]


@pytest.mark.parametrize(("stored", "version"), [('{"budget": 10}', 1), ('{"schema": 3}', 3)])
def test_a_run_of_an_older_schema_is_refused_with_both_versions(tmp_path, stored, version):
    (tmp_path / "fingerprint.json").write_text(stored)
    with pytest.raises(ResumeError, match=f"expected a run of schema version 4, got version {version}"):
        check_same(tmp_path, found())
